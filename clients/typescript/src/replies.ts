import type { CallOptions, Client } from "@connectrpc/connect";
import { incomplete, MetamorphError } from "./errors.js";
import type { ChatService } from "./gen/metamorph/chat/v1/chat_service_pb.js";
import { type Turn, type TurnEvent, type TurnFinished, TurnStatus } from "./gen/metamorph/chat/v1/turn_pb.js";
import { type Running, Task } from "./running.js";

const FIRST_BACKOFF_MS = 100;
const LONGEST_BACKOFF_MS = 5_000;
const OVER = { done: true as const, value: undefined };

/** How long a client goes on trying: until so many milliseconds have passed without progress. */
export class Patience {
  readonly #giveUpAfterMs: number;
  readonly #onRetry: (error: MetamorphError) => void;
  readonly #running: Running;
  #attempts = 0;
  #failingSince: number | undefined;

  constructor(giveUpAfterMs: number, onRetry: (error: MetamorphError) => void, running: Running) {
    this.#giveUpAfterMs = giveUpAfterMs;
    this.#onRetry = onRetry;
    this.#running = running;
  }

  /** Starts anew, because something has arrived. */
  progress(): void {
    this.#attempts = 0;
    this.#failingSince = undefined;
  }

  /** Resolves when it is time for the next attempt. Throws the error if none can help, or it would come too late. */
  async wait(error: unknown, signal?: AbortSignal): Promise<void> {
    if (!(error instanceof MetamorphError) || !error.resumable) throw error;
    this.#failingSince ??= performance.now();
    // Full jitter (AWS Architecture Blog, 2015).
    const backoff = Math.random() * Math.min(FIRST_BACKOFF_MS * 2 ** this.#attempts, LONGEST_BACKOFF_MS);
    const delay = error.retryDelay === undefined ? backoff : error.retryDelay * 1000;
    if (performance.now() + delay - this.#failingSince > this.#giveUpAfterMs) throw error;
    this.#onRetry(error);
    await this.#running.pause(delay, signal);
    this.#attempts++;
  }
}

/** How a client streams turns. */
export interface Streams {
  chat: Client<typeof ChatService>;
  patience: () => Patience;
}

/** What is to be streamed: a turn that a call starts, or the rest of one that there is. */
export interface Streamed {
  start?: (options: CallOptions) => AsyncIterable<{ event?: TurnEvent | undefined }>;
  turnId?: string;
  afterSequence?: number;
  signal?: AbortSignal | undefined;
  /** Called when the server has accepted a call, which may be long before its first event. */
  onAccepted?: () => void;
}

/** Yields the events of a turn, each once and in order, to its end. Throws MetamorphError. */
export async function* resuming(
  { chat, patience: begun }: Streams,
  { start, signal, onAccepted, ...from }: Streamed,
): AsyncGenerator<TurnEvent, void> {
  const patience = begun();
  let { turnId = "", afterSequence: sequence = 0 } = from;
  let finished = false;
  const aborted = signal ? { signal } : {};
  // An answer that is a refusal may have headers too, but not this one.
  const onHeader = (header: Headers) => header.has("x-request-id") && onAccepted?.();
  const options = { ...aborted, onHeader };
  for (;;) {
    // The same request ID replays the turn from its first event.
    const stream =
      start && !turnId ? start(options) : chat.streamTurn({ turnId, afterSequence: sequence }, options);
    let first = true;
    try {
      for await (const { event } of stream) {
        if (!event) continue;
        const last = event.event.case === "turnFinished";
        // The last event may be the first of a stream, because the others have expired.
        if (event.sequence > sequence + 1 && !(first && last)) {
          throw incomplete(`event ${event.sequence} follows event ${sequence}`);
        }
        first = false;
        if (event.sequence <= sequence) continue;
        ({ turnId, sequence } = event);
        finished = last;
        patience.progress();
        yield event;
      }
      if (finished || (!start && (await isOver(chat, turnId, sequence, aborted)))) return;
      throw incomplete(`the stream ended after event ${sequence}, before TurnFinished`);
    } catch (error) {
      if (finished) return;
      await patience.wait(error, signal);
    }
  }
}

// Whether a turn has no event after a sequence, and will have none. StreamTurn ends OK without an event then, and no
// other stream does.
async function isOver(chat: Client<typeof ChatService>, turnId: string, sequence: number, options: CallOptions) {
  const { turn } = await chat.getTurn({ turnId }, options);
  return turn !== undefined && turn.status !== TurnStatus.RUNNING && turn.lastSequence <= sequence;
}

// Events of which the first one is asked for at once, and which can be left at any time.
class Stream {
  readonly first: Promise<IteratorResult<TurnEvent, void>>;
  readonly #task: Task;
  readonly #events: AsyncGenerator<TurnEvent, void>;
  #begun = false;

  constructor(streams: Streams, from: Streamed) {
    this.#task = new Task(from.signal);
    this.#events = resuming(streams, { ...from, signal: this.#task.signal });
    this.first = this.#events.next();
    // It fails for those who ask for it.
    this.first.catch(() => {});
  }

  next(): Promise<IteratorResult<TurnEvent, void>> {
    if (this.#begun) return this.#events.next();
    this.#begun = true;
    return this.first;
  }

  leave(): void {
    this.#task.end();
  }
}

/**
 * The reply of a turn. Iterate over it for its events, each of which arrives once, and in order.
 *
 * Leaving the loop ends the stream only: the turn goes on, and its reply is stored. Another loop, `text` and `final` go on
 * after the last event that arrived here. `cancel` stops the turn.
 */
export class Reply implements AsyncIterable<TurnEvent> {
  readonly turnId: string;
  readonly #streams: Streams;
  readonly #signal: AbortSignal | undefined;
  #stream: Stream | undefined;
  #sequence: number;
  #finished: TurnFinished | undefined;

  private constructor(streams: Streams, stream: Stream, { turnId = "", afterSequence = 0, signal }: Streamed) {
    this.turnId = turnId;
    this.#streams = streams;
    this.#stream = stream;
    this.#sequence = afterSequence;
    this.#signal = signal;
  }

  /** @internal Returns the reply of a turn once it is stored, as its first event says. Throws what refuses it. */
  static async started(streams: Streams, from: Streamed): Promise<Reply> {
    const stream = new Stream(streams, from);
    const { value: first } = await stream.first;
    if (!first) throw incomplete("the stream ended before its first event");
    return new Reply(streams, stream, { ...from, turnId: first.turnId });
  }

  /** @internal Returns the rest of a turn's reply once the server streams it. Throws what refuses it. */
  static followed(streams: Streams, from: Streamed): Promise<Reply> {
    return new Promise((resolve, reject) => {
      const onAccepted = () => resolve(reply);
      const stream = new Stream(streams, { ...from, onAccepted });
      const reply = new Reply(streams, stream, from);
      // Of a server that answers with its first event, or of a turn that has no more.
      stream.first.then(onAccepted, reject);
    });
  }

  [Symbol.asyncIterator](): AsyncIterableIterator<TurnEvent> {
    return {
      next: () => this.#next(),
      return: async () => (this.#leave(), OVER),
      [Symbol.asyncIterator]() {
        return this;
      },
    };
  }

  async #next(): Promise<IteratorResult<TurnEvent, void>> {
    if (this.#finished && !this.#stream) return OVER;
    const from = { turnId: this.turnId, afterSequence: this.#sequence, signal: this.#signal };
    const stream = (this.#stream ??= new Stream(this.#streams, from));
    let result: IteratorResult<TurnEvent, void> = OVER;
    try {
      result = await stream.next();
    } catch (error) {
      if (stream === this.#stream) {
        this.#stream = undefined;
        throw error;
      }
    }
    // It was left meanwhile.
    if (stream !== this.#stream) return OVER;
    if (result.done) {
      this.#stream = undefined;
      return OVER;
    }
    const { sequence, event } = result.value;
    this.#sequence = sequence;
    if (event.case === "turnFinished") this.#finished = event.value;
    return result;
  }

  #leave(): void {
    const stream = this.#stream;
    this.#stream = undefined;
    // After the last event, the server ends the stream.
    if (this.#finished) void stream?.next();
    else stream?.leave();
  }

  /**
   * Returns how the turn has ended, with the stored message, once it has. A turn that has failed is no error here: its
   * `status` says so. Throws MetamorphError.
   */
  async final(): Promise<TurnFinished> {
    for await (const _ of this);
    if (!this.#finished) {
      // It was followed from its last event, or is iterated over elsewhere too.
      const from = { turnId: this.turnId, afterSequence: this.#sequence - 1, signal: this.#signal };
      for await (const { event } of resuming(this.#streams, from)) {
        if (event.case === "turnFinished") this.#finished = event.value;
      }
    }
    return this.#finished!;
  }

  /** Yields the text as it arrives. Throws MetamorphError. */
  async *text(): AsyncGenerator<string, void> {
    for await (const { event } of this) if (event.case === "textDelta") yield event.value.text;
  }

  /** Stops the turn, and returns it. What was generated so far is kept, and the events still come to an end. */
  async cancel(): Promise<Turn> {
    return (await this.#streams.chat.cancelTurn({ turnId: this.turnId })).turn!;
  }
}
