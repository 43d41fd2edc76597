import type { Client } from "@connectrpc/connect";
import { pause } from "./calls.js";
import { incomplete, MetamorphError } from "./errors.js";
import type { ChatService } from "./gen/metamorph/chat/v1/chat_service_pb.js";
import { type Turn, type TurnEvent, type TurnFinished, TurnStatus } from "./gen/metamorph/chat/v1/turn_pb.js";

const FIRST_BACKOFF_MS = 100;
const LONGEST_BACKOFF_MS = 5_000;

/** How long a client goes on trying: until so many milliseconds have passed without progress. */
export class Patience {
  readonly #giveUpAfterMs: number;
  readonly #onRetry: (error: MetamorphError) => void;
  #attempts = 0;
  #failingSince: number | undefined;

  constructor(giveUpAfterMs: number, onRetry: (error: MetamorphError) => void) {
    this.#giveUpAfterMs = giveUpAfterMs;
    this.#onRetry = onRetry;
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
    await pause(delay, signal);
    this.#attempts++;
  }
}

interface CallOptions {
  signal?: AbortSignal;
}

/** What is to be streamed: a turn that a call starts, or the rest of one that there is. */
export interface Streamed {
  chat: Client<typeof ChatService>;
  patience: Patience;
  start?: (options: CallOptions) => AsyncIterable<{ event?: TurnEvent | undefined }>;
  turnId?: string;
  afterSequence?: number;
  signal?: AbortSignal | undefined;
}

/** Yields the events of a turn, each once and in order, to its end. Throws MetamorphError. */
export async function* resuming({ chat, patience, start, signal, ...from }: Streamed): AsyncGenerator<TurnEvent, void> {
  let { turnId = "", afterSequence: sequence = 0 } = from;
  let finished = false;
  const options = signal ? { signal } : {};
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
      if (finished || (!start && (await isOver(chat, turnId, sequence, options)))) return;
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

/**
 * The reply of a turn that has started. Iterate over it for its events, each of which arrives once, and in order.
 *
 * Leaving the loop, or aborting the signal, ends the stream only: the turn goes on, and its reply is stored. `cancel`
 * stops it.
 */
export class Reply implements AsyncIterable<TurnEvent> {
  readonly turnId: string;
  readonly #events: AsyncGenerator<TurnEvent, void>;
  readonly #cancel: (turnId: string) => Promise<Turn>;
  #finished: TurnFinished | undefined;

  private constructor(
    first: TurnEvent,
    events: AsyncGenerator<TurnEvent, void>,
    cancel: (turnId: string) => Promise<Turn>,
  ) {
    this.turnId = first.turnId;
    this.#events = this.#all(first, events);
    this.#cancel = cancel;
  }

  /** @internal Returns a reply once its turn is stored, as its first event says. Throws what refuses it. */
  static async begin(
    events: AsyncGenerator<TurnEvent, void>,
    cancel: (turnId: string) => Promise<Turn>,
  ): Promise<Reply> {
    const { value: first } = await events.next();
    if (!first) throw incomplete("the stream ended before its first event");
    return new Reply(first, events, cancel);
  }

  [Symbol.asyncIterator](): AsyncGenerator<TurnEvent, void> {
    return this.#events;
  }

  async *#all(first: TurnEvent, events: AsyncGenerator<TurnEvent, void>): AsyncGenerator<TurnEvent, void> {
    try {
      yield first;
      for await (const event of events) {
        if (event.event.case === "turnFinished") this.#finished = event.event.value;
        yield event;
      }
    } finally {
      await events.return();
    }
  }

  /**
   * Returns how the turn has ended, with the stored message, once it has. A turn that has failed is no error here: its
   * `status` says so. Throws MetamorphError, and Error if the loop was left before the end.
   */
  async final(): Promise<TurnFinished> {
    for await (const _ of this);
    if (!this.#finished) throw new Error("this reply was left before its end: follow its turn for the rest");
    return this.#finished;
  }

  /** Yields the text as it arrives. Throws MetamorphError. */
  async *text(): AsyncGenerator<string, void> {
    for await (const { event } of this) if (event.case === "textDelta") yield event.value.text;
  }

  /** Stops the turn, and returns it. What was generated so far is kept, and the events still come to an end. */
  cancel(): Promise<Turn> {
    return this.#cancel(this.turnId);
  }
}
