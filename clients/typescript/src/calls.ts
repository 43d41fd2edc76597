import { setTimeout } from "node:timers/promises";
import type { DescMessage, DescMethod, DescMethodStreaming, DescMethodUnary, MessageInitShape } from "@bufbuild/protobuf";
import { ConnectError, type ContextValues, type StreamResponse, type Transport, type UnaryResponse } from "@connectrpc/connect";
import { aborted, MetamorphError, type StatusCode } from "./errors.js";
import { channel } from "./gen/channel.js";

type Awaitable<T> = T | Promise<T>;
type Text = string | null | undefined;
/** Text, or a promise of it, or a function that returns either. Empty text, null and undefined are no token. */
export type Token = Awaitable<Text> | (() => Awaitable<Text>);

/** Identifies the caller by a token or, in dev mode only, by the vault alone. */
export class Identity {
  readonly #token: Token;
  readonly #vault: string | undefined;

  constructor(token: Token, vault: string | undefined) {
    this.#token = token;
    this.#vault = vault;
  }

  /** Returns the headers of a call, with the client's identity unless they have one. Throws TypeError for what is no text. */
  async identified(given: HeadersInit | undefined): Promise<Headers> {
    const headers = new Headers(given);
    // Not one of each: the server refuses a vault beside a token.
    if (headers.has("authorization") || headers.has("x-vault-id")) return headers;
    const token = textOf("token", await (typeof this.#token === "function" ? this.#token() : this.#token));
    const vault = textOf("vault", this.#vault);
    if (token) headers.set("authorization", `Bearer ${token}`);
    if (vault) headers.set("x-vault-id", vault);
    return headers;
  }
}

const [{ name: repeatable, retryPolicy }] = channel.serviceConfig.methodConfig;
const REPEATABLE = new Set(repeatable.map(({ service, method }) => `${service}/${method}`));
const RETRIED = new Set<StatusCode>(retryPolicy.retryableStatusCodes);
const [FIRST_BACKOFF_MS, LONGEST_BACKOFF_MS] = [retryPolicy.initialBackoff, retryPolicy.maxBackoff].map(
  (seconds) => parseFloat(seconds) * 1000,
) as [number, number];

/**
 * Makes the calls of stubs, each identified, and repeated as the service config says, which gRPC's own clients do by
 * themselves: until the first byte of a response. Throws MetamorphError.
 */
export class Calls implements Transport {
  readonly #wire: Transport;
  readonly #identity: Identity;
  readonly #timeoutMs: number;

  constructor(wire: Transport, identity: Identity, timeoutMs: number) {
    this.#wire = wire;
    this.#identity = identity;
    this.#timeoutMs = timeoutMs;
  }

  unary<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    signal: AbortSignal | undefined,
    timeoutMs: number | undefined,
    header: HeadersInit | undefined,
    input: MessageInitShape<I>,
    contextValues?: ContextValues,
  ): Promise<UnaryResponse<I, O>> {
    const made = async (left: number | undefined) => {
      const headers = await this.#identity.identified(header);
      return this.#wire.unary(method, signal, left, headers, input, contextValues);
    };
    return repeated(method, made, signal, timeoutMs ?? this.#timeoutMs);
  }

  async stream<I extends DescMessage, O extends DescMessage>(
    method: DescMethodStreaming<I, O>,
    signal: AbortSignal | undefined,
    timeoutMs: number | undefined,
    header: HeadersInit | undefined,
    input: AsyncIterable<MessageInitShape<I>>,
    contextValues?: ContextValues,
  ): Promise<StreamResponse<I, O>> {
    // Ends the call if the loop over its responses is left.
    const left = new AbortController();
    const either = signal ? AbortSignal.any([signal, left.signal]) : left.signal;
    // Several requests are not kept, so they cannot be sent again.
    const kept = method.methodKind === "server_streaming" ? await all(input) : undefined;
    const made = async (milliseconds: number | undefined) => {
      const headers = await this.#identity.identified(header);
      const requests = kept ? asyncOf(kept) : input;
      return this.#wire.stream(method, either, milliseconds, headers, requests, contextValues);
    };
    const response = await (kept
      ? repeated(method, made, signal, timeoutMs)
      : made(timeoutMs).catch((error) => {
          throw failed(error, signal);
        }));
    return { ...response, message: responses(response.message, signal, left) };
  }
}

async function* responses<T>(messages: AsyncIterable<T>, signal: AbortSignal | undefined, left: AbortController) {
  try {
    yield* messages;
  } catch (error) {
    throw failed(error, signal);
  } finally {
    left.abort();
  }
}

async function repeated<T>(
  method: DescMethod,
  made: (leftMs: number | undefined) => Promise<T>,
  signal: AbortSignal | undefined,
  timeoutMs: number | undefined,
): Promise<T> {
  const began = performance.now();
  const attempts = REPEATABLE.has(`${method.parent.typeName}/${method.name}`) ? retryPolicy.maxAttempts : 1;
  for (let attempt = 1; ; attempt++) {
    // A whole number of at most eight digits.
    const leftMs = timeoutMs && Math.min(Math.max(1, Math.ceil(timeoutMs - (performance.now() - began))), 99_999_999);
    try {
      return await made(leftMs);
    } catch (thrown) {
      const error = failed(thrown, signal);
      const again = error instanceof MetamorphError && RETRIED.has(error.code) && error.resumable;
      const backoff = FIRST_BACKOFF_MS * retryPolicy.backoffMultiplier ** (attempt - 1);
      const delay = Math.random() * Math.min(backoff, LONGEST_BACKOFF_MS);
      if (!again || attempt === attempts || (leftMs && delay > leftMs)) throw error;
      await pause(delay, signal);
    }
  }
}

/** Resolves after a time. Throws MetamorphError if the signal is aborted before. */
export async function pause(milliseconds: number, signal: AbortSignal | undefined): Promise<void> {
  try {
    await setTimeout(milliseconds, undefined, { signal });
  } catch (error) {
    throw failed(error, signal);
  }
}

// What no call has thrown, such as an error of the function that returns tokens, stays what it is.
function failed(error: unknown, signal: AbortSignal | undefined): unknown {
  if (signal?.aborted) return aborted(signal);
  return error instanceof ConnectError ? MetamorphError.from(error) : error;
}

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = [];
  for await (const item of items) found.push(item);
  return found;
}

async function* asyncOf<T>(items: Iterable<T>): AsyncGenerator<T> {
  yield* items;
}

// Others would be sent as their name, such as "[object Object]", of which no server knows anything.
function textOf(name: string, value: unknown): string {
  if (value === undefined || value === null) return "";
  if (typeof value !== "string") throw new TypeError(`the ${name} must be a string, not of type ${typeof value}`);
  // Headers would show the token in their error.
  if (/[^\x21-\x7e]/.test(value)) throw new TypeError(`the ${name} must be of visible ASCII characters, without spaces`);
  return value;
}
