import type {
  DescMessage,
  DescMethod,
  DescMethodStreaming,
  DescMethodUnary,
  DescService,
  MessageInitShape,
} from "@bufbuild/protobuf";
import {
  type CallOptions,
  type Client,
  ConnectError,
  type ContextValues,
  createClient,
  type StreamResponse,
  type Transport,
  type UnaryResponse,
} from "@connectrpc/connect";
import { MetamorphError, type StatusCode, TOKEN_REASONS } from "./errors.js";
import { channel } from "./gen/channel.js";
import { type Running, Task } from "./running.js";

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

  /** Whether another call may have another token. */
  get renews(): boolean {
    return typeof this.#token === "function";
  }

  /** Returns the headers of a call, with the client's identity unless they have one. Throws TypeError for what is no text. */
  async identified(given: HeadersInit | undefined): Promise<Headers> {
    const headers = new Headers(given);
    // Not one of each: the server refuses a vault beside a token.
    if (headers.has("authorization") || headers.has("x-vault-id")) return headers;
    const token = textOf("token", await (typeof this.#token === "function" ? asked(this.#token) : this.#token));
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

interface Asked {
  attempts: number;
  timeoutMs: number | undefined;
  header: HeadersInit | undefined;
}

/**
 * Makes the calls of stubs, each identified, and repeated as the service config says, which gRPC's own clients do by
 * themselves: until the first byte of a response. Throws MetamorphError.
 */
export class Calls implements Transport {
  readonly #wire: Transport;
  readonly #identity: Identity;
  readonly #timeoutMs: number;
  readonly #running: Running;

  constructor(wire: Transport, identity: Identity, timeoutMs: number, running: Running) {
    this.#wire = wire;
    this.#identity = identity;
    this.#timeoutMs = timeoutMs;
    this.#running = running;
  }

  async unary<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    signal: AbortSignal | undefined,
    timeoutMs: number | undefined,
    header: HeadersInit | undefined,
    input: MessageInitShape<I>,
    contextValues?: ContextValues,
  ): Promise<UnaryResponse<I, O>> {
    const task = this.#running.begin(signal);
    try {
      const asked = { attempts: attemptsOf(method), timeoutMs: timeoutMs ?? this.#timeoutMs, header };
      return await this.#repeated(task, asked, (leftMs, headers) =>
        this.#wire.unary(method, task.signal, leftMs, headers, input, contextValues),
      );
    } finally {
      task.end();
    }
  }

  async stream<I extends DescMessage, O extends DescMessage>(
    method: DescMethodStreaming<I, O>,
    signal: AbortSignal | undefined,
    timeoutMs: number | undefined,
    header: HeadersInit | undefined,
    input: AsyncIterable<MessageInitShape<I>>,
    contextValues?: ContextValues,
  ): Promise<StreamResponse<I, O>> {
    const task = this.#running.begin(signal);
    try {
      // Several requests are not kept, so they cannot be sent again.
      const kept = method.methodKind === "server_streaming" ? await all(input) : undefined;
      const asked = { attempts: kept ? attemptsOf(method) : 1, timeoutMs, header };
      const response = await this.#repeated(task, asked, (leftMs, headers) =>
        this.#wire.stream(method, task.signal, leftMs, headers, kept ? asyncOf(kept) : input, contextValues),
      );
      return { ...response, message: this.#responses(response.message, task) };
    } catch (error) {
      task.end();
      throw error;
    }
  }

  async *#responses<T>(messages: AsyncIterable<T>, task: Task): AsyncGenerator<T> {
    try {
      yield* messages;
    } catch (error) {
      throw this.#failed(error, task);
    } finally {
      task.end();
    }
  }

  async #repeated<T>(
    task: Task,
    { attempts, timeoutMs, header }: Asked,
    made: (leftMs: number | undefined, headers: Headers) => Promise<T>,
  ): Promise<T> {
    const began = performance.now();
    const left = () => timeoutMs && milliseconds(timeoutMs - (performance.now() - began));
    for (let attempt = 1; ; attempt++) {
      try {
        const identified = this.#identity.identified(header);
        // Streams have no deadline, and yet none waits for ever for its token.
        const longest = left() || milliseconds(this.#timeoutMs || Infinity);
        const headers = await task.within(longest, "the function that returns the token", identified);
        return await made(left(), headers);
      } catch (thrown) {
        const error = this.#failed(thrown, task);
        const again = error instanceof MetamorphError && RETRIED.has(error.code) && error.resumable;
        const backoff = FIRST_BACKOFF_MS * retryPolicy.backoffMultiplier ** (attempt - 1);
        const delay = Math.random() * Math.min(backoff, LONGEST_BACKOFF_MS);
        if (!again || attempt === attempts || delay > (left() || Infinity)) throw error;
        await this.#running.pause(delay, task.signal);
      }
    }
  }

  #failed(thrown: unknown, task: Task): unknown {
    // Connect's words for a request that is no message of its type.
    if (thrown instanceof ConnectError && thrown.rawMessage.startsWith("serialize binary: ")) {
      return new TypeError(`the request cannot be encoded: ${thrown.rawMessage.slice("serialize binary: ".length)}`);
    }
    const error = task.failed(thrown);
    const refused = error instanceof MetamorphError && TOKEN_REASONS.has(error.reason);
    if (!refused || this.#identity.renews) return error;
    // The same token would be refused again.
    return new MetamorphError(error.code, error.message, { ...error, resumable: false, cause: error.cause });
  }
}

/**
 * Returns the stub of a service. A stream is called when its first response is asked for, and leaving the loop over them
 * ends it, as connect's own stubs do not.
 */
export function stub<S extends DescService>(service: S, calls: Calls): Client<S> {
  const made = createClient(service, calls) as Record<string, unknown>;
  for (const { localName, methodKind } of service.methods) {
    if (methodKind !== "server_streaming") continue;
    const call = made[localName] as (request: unknown, options: CallOptions) => AsyncIterable<unknown>;
    made[localName] = (request: unknown, options: CallOptions = {}) =>
      leavable((signal) => call(request, { ...options, signal }), options.signal);
  }
  return made as Client<S>;
}

function leavable<T>(call: (signal: AbortSignal) => AsyncIterable<T>, given?: AbortSignal): AsyncIterable<T> {
  let called: { task: Task; responses: AsyncIterator<T> } | undefined;
  let left = false;
  const over = { done: true as const, value: undefined };
  const begin = () => {
    const task = new Task(given);
    return { task, responses: call(task.signal)[Symbol.asyncIterator]() };
  };
  const next = async () => {
    if (left) return over;
    // Not before: nobody would hear of an error.
    const { task, responses } = (called ??= begin());
    try {
      const result = await responses.next();
      if (result.done) task.end();
      return result;
    } catch (error) {
      task.end();
      throw error;
    }
  };
  const leave = async () => {
    left = true;
    called?.task.end();
    return over;
  };
  return { [Symbol.asyncIterator]: () => ({ next, return: leave }) };
}

// What functions that return the token have thrown.
const tokenFailures = new WeakSet<object>();

/** Whether an error is what a function has thrown that was to return a token. */
export function isTokenFailure(error: unknown): boolean {
  return typeof error === "object" && error !== null && tokenFailures.has(error);
}

async function asked(token: () => Awaitable<Text>): Promise<Text> {
  try {
    return await token();
  } catch (error) {
    if (typeof error === "object" && error !== null) tokenFailures.add(error);
    throw error;
  }
}

function attemptsOf({ parent, name }: DescMethod): number {
  return REPEATABLE.has(`${parent.typeName}/${name}`) ? retryPolicy.maxAttempts : 1;
}

// A whole number of at most eight digits, as gRPC has them.
function milliseconds(time: number): number {
  return Math.min(Math.max(1, Math.ceil(time)), 99_999_999);
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
