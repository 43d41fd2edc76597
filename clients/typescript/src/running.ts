import { setTimeout as after } from "node:timers/promises";
import { Code, ConnectError } from "@connectrpc/connect";
import { MetamorphError } from "./errors.js";

// With another code, connect would end the stream as an error of this program.
const OVER = new ConnectError("it is over", Code.Canceled);
const cancelling = (why: MetamorphError) => new ConnectError(why.message, Code.Canceled, undefined, undefined, why);

/** Something that goes on until it is over, its caller's signal is aborted, or the client is closed. */
export class Task {
  readonly #controller = new AbortController();
  readonly #given: AbortSignal | undefined;
  readonly #onEnd: (ended: Task) => void;
  #failure: MetamorphError | undefined;

  constructor(given?: AbortSignal, onEnd: (ended: Task) => void = () => {}) {
    this.#given = given;
    this.#onEnd = onEnd;
    if (given?.aborted) this.#aborted();
    else given?.addEventListener("abort", this.#aborted);
  }

  /** Is aborted once this has ended, for whatever reason. */
  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Ends what still goes on, which fails with an error if one is given. */
  end(failure?: MetamorphError): void {
    this.#failure ??= failure;
    this.#given?.removeEventListener("abort", this.#aborted);
    this.#onEnd(this);
    this.#controller.abort(this.#failure ? cancelling(this.#failure) : OVER);
  }

  /** Returns what an error means: why this has ended, or the error of a call. Any other stays what it is. */
  failed(error: unknown): unknown {
    return this.#failure ?? (error instanceof ConnectError ? MetamorphError.from(error) : error);
  }

  /** Resolves as a promise does, but within a time, and while this goes on. Throws MetamorphError otherwise. */
  async within<T>(milliseconds: number, what: string, promise: Promise<T>): Promise<T> {
    const { signal } = this;
    let timer: NodeJS.Timeout | undefined;
    const otherwise = new Promise<never>((_, reject) => {
      const ended = () => reject(this.failed(signal.reason));
      const late = () => reject(new MetamorphError("DEADLINE_EXCEEDED", `${what} took longer than ${milliseconds} ms`));
      if (signal.aborted) return ended();
      signal.addEventListener("abort", ended, { once: true });
      timer = setTimeout(late, milliseconds);
    });
    try {
      return await Promise.race([promise, otherwise]);
    } finally {
      clearTimeout(timer);
    }
  }

  readonly #aborted = () => {
    const cause: unknown = this.#given?.reason;
    // That of a task that this is a part of.
    const failure = cause instanceof ConnectError && cause.cause instanceof MetamorphError ? cause.cause : undefined;
    this.end(failure ?? new MetamorphError("CANCELLED", "the call was aborted", { resumable: false, cause }));
  };
}

/** What a client and those that share its connection have running. All of it ends when the client is closed. */
export class Running {
  readonly #tasks = new Set<Task>();
  #closed = false;

  /** Returns a task that has begun. Throws MetamorphError if the client is closed. */
  begin(signal?: AbortSignal): Task {
    if (this.#closed) throw closed();
    const task = new Task(signal, (ended) => this.#tasks.delete(ended));
    if (!task.signal.aborted) this.#tasks.add(task);
    return task;
  }

  /** Resolves after a time. Throws MetamorphError if the signal is aborted before, or the client is closed. */
  async pause(milliseconds: number, signal?: AbortSignal): Promise<void> {
    const task = this.begin(signal);
    try {
      await after(milliseconds, undefined, { signal: task.signal });
    } catch (error) {
      throw task.failed(error);
    } finally {
      task.end();
    }
  }

  /** Ends what is running, and refuses what is to begin. */
  close(): void {
    this.#closed = true;
    for (const task of [...this.#tasks]) task.end(closed());
  }
}

// An error of its own for each, with its stack.
function closed(): MetamorphError {
  return new MetamorphError("CANCELLED", "the client is closed", { resumable: false });
}
