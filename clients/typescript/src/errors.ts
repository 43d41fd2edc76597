import { Code, ConnectError } from "@connectrpc/connect";
import {
  BadRequestSchema,
  ErrorInfoSchema,
  RequestInfoSchema,
  RetryInfoSchema,
} from "./gen/google/rpc/error_details_pb.js";

/** The names of gRPC's status codes, each at its number. */
const CODES = [
  "OK",
  "CANCELLED",
  "UNKNOWN",
  "INVALID_ARGUMENT",
  "DEADLINE_EXCEEDED",
  "NOT_FOUND",
  "ALREADY_EXISTS",
  "PERMISSION_DENIED",
  "RESOURCE_EXHAUSTED",
  "FAILED_PRECONDITION",
  "ABORTED",
  "OUT_OF_RANGE",
  "UNIMPLEMENTED",
  "INTERNAL",
  "UNAVAILABLE",
  "DATA_LOSS",
  "UNAUTHENTICATED",
] as const;
/** A status code of gRPC. */
export type StatusCode = (typeof CODES)[number];

/** A field of a request that breaks a rule, and the rule. */
export interface Violation {
  readonly field: string;
  readonly description: string;
}

// What ends with one of these can be resumed, because the turn may still be running.
const RESUMABLE = new Set<StatusCode>(["UNAVAILABLE", "INTERNAL", "UNKNOWN", "CANCELLED", "DEADLINE_EXCEEDED"]);
/** The reasons with which a new token helps. */
export const TOKEN_REASONS: ReadonlySet<string> = new Set(["TOKEN_EXPIRED", "TOKEN_REVOKED"]);
// Waiting helps with the others.
const RESUMABLE_REASONS = new Set([...TOKEN_REASONS, "RATE_LIMITED", "READER_TOO_SLOW", "STORE_BUSY"]);
// What Node says of a handshake that no further attempt can change, and what that means.
const TLS_FAULTS: readonly (readonly [RegExp, string])[] = [
  [/ALERT.*CERT|ALERT_UNKNOWN_CA/, "the server wants another certificate of the client: give `cert` and `key` of `tls`"],
  [
    /CERT|SELF_SIGNED|LEAF_SIGNATURE|HOSTNAME_MISMATCH|INVALID_CA/,
    "the server's certificate is not trusted: name its authority as `ca` of `tls`, and the server as its certificate does",
  ],
  [/^ERR_SSL_/, "the server does not speak TLS, or another kind: leave out `tls` and grpcs:// if it speaks none"],
];
const SHOWN_VIOLATIONS = 3;
// The same in ESM and in CommonJS, each of which has a class of its own.
const BRAND = Symbol.for("metamorph.error");
// How the connection was lost has many names. gRPC has one.
const LOST = new Set([Code.Canceled, Code.Aborted, Code.Unknown, Code.Internal]);

interface Details {
  reason?: string;
  metadata?: Readonly<Record<string, string>>;
  retryDelay?: number | undefined;
  violations?: readonly Violation[];
  callId?: string;
  resumable?: boolean;
  cause?: unknown;
}

/** A call that failed, most often because the server refused it. Calls and streams throw no other errors of the server. */
export class MetamorphError extends Error {
  override readonly name = "MetamorphError";
  /** gRPC's name of the status, such as `NOT_FOUND`. */
  readonly code: StatusCode;
  /** An ErrorReason without its prefix, such as `SESSION_NOT_FOUND`. Empty if the error has none. */
  readonly reason: string;
  /** The keys are listed in the reason's comment. */
  readonly metadata: Readonly<Record<string, string>>;
  /** How long to wait before another attempt, in seconds, if the server says so. */
  readonly retryDelay: number | undefined;
  /** The fields of the request that are invalid. */
  readonly violations: readonly Violation[];
  /** Names the call in the server's log. Empty if the call did not get there. */
  readonly callId: string;
  /** Whether the same call, or the rest of the same stream, may succeed later. */
  readonly resumable: boolean;

  constructor(code: StatusCode, message: string, details: Details = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.code = code;
    this.reason = details.reason ?? "";
    this.metadata = details.metadata ?? {};
    this.retryDelay = details.retryDelay;
    this.violations = details.violations ?? [];
    this.callId = details.callId ?? "";
    // A server that names a delay expects the call again.
    const waits = this.retryDelay !== undefined || RESUMABLE_REASONS.has(this.reason) || RESUMABLE.has(code);
    this.resumable = details.resumable ?? waits;
  }

  /** @internal */
  get [BRAND](): boolean {
    return true;
  }

  /** Returns `REASON: message`, or `CODE: message` if there is no reason, and the first fields that are invalid. */
  override toString(): string {
    const shown = this.violations
      .slice(0, SHOWN_VIOLATIONS)
      .map(({ field, description }) => (field ? `${field}: ${description}` : description));
    const more = this.violations.length - shown.length;
    if (more) shown.push(`and ${more} more`);
    return `${this.reason || this.code}: ${this.message}${shown.length ? ` (${shown.join("; ")})` : ""}`;
  }

  /**
   * Returns anything that was thrown as a MetamorphError, itself if it is one, of ESM or CommonJS. What no call threw has the code UNKNOWN, or
   * CANCELLED if it says that a signal was aborted, and is not resumable.
   */
  static from(error: unknown): MetamorphError {
    if (typeof error === "object" && error !== null && BRAND in error) return error as MetamorphError;
    if (error instanceof ConnectError) return ofStatus(error) ?? ofConnection(error);
    const aborted = error instanceof Error && error.name === "AbortError";
    const message = error instanceof Error ? error.message : String(error);
    return new MetamorphError(aborted ? "CANCELLED" : "UNKNOWN", message, { resumable: false, cause: error });
  }
}

/** Returns the error of a stream that has ended OK, or goes on, without an event that it must have. */
export function incomplete(message: string): MetamorphError {
  return new MetamorphError("INTERNAL", message);
}

// The error that a server answered with, with its google.rpc details (AIP-193) unpacked.
function ofStatus(error: ConnectError): MetamorphError | undefined {
  if (!error.metadata.has("grpc-status")) return undefined;
  const [info] = error.findDetails(ErrorInfoSchema);
  const [retry] = error.findDetails(RetryInfoSchema);
  const [request] = error.findDetails(RequestInfoSchema);
  const [invalid] = error.findDetails(BadRequestSchema);
  const delay = retry?.retryDelay;
  return new MetamorphError(CODES[error.code] ?? "UNKNOWN", error.rawMessage, {
    reason: info?.reason ?? "",
    metadata: info?.metadata ?? {},
    retryDelay: delay && Number(delay.seconds) + delay.nanos / 1e9,
    violations: invalid?.fieldViolations.map(({ field, description }) => ({ field, description })) ?? [],
    callId: request?.requestId || (error.metadata.get("x-request-id") ?? ""),
  });
}

// The error of a call that got no answer.
function ofConnection(error: ConnectError): MetamorphError {
  const codes = codesOf(error);
  for (const [sign, meaning] of TLS_FAULTS) {
    if (codes.some((code) => sign.test(code))) {
      return new MetamorphError("UNAVAILABLE", `${meaning} (${error.rawMessage})`, { resumable: false, cause: error });
    }
  }
  const code = LOST.has(error.code) ? "UNAVAILABLE" : (CODES[error.code] ?? "UNKNOWN");
  return new MetamorphError(code, error.rawMessage, { cause: error });
}

// The codes of Node's errors that caused an error, such as ECONNREFUSED.
function codesOf(error: Error): string[] {
  const codes = [];
  for (let cause: unknown = error; cause instanceof Error; cause = cause.cause) {
    if ("code" in cause && typeof cause.code === "string") codes.push(cause.code);
  }
  return codes;
}
