import type { CallOptions, Client } from "@connectrpc/connect";
import { incomplete } from "./errors.js";
import type { ChatService } from "./gen/metamorph/chat/v1/chat_service_pb.js";
import { type Turn, type TurnEvent, type TurnFinished, TurnStatus } from "./gen/metamorph/chat/v1/turn_pb.js";
import type { Patience } from "./patience.js";
import { Task } from "./running.js";

// The server ends a stream as soon as it has sent TurnFinished.
const END_TIMEOUT_MS = 1_000;
const OVER = { done: true as const, value: undefined };

/** How a client streams turns. */
export interface Streams {
  chat: Client<typeof ChatService>;
  patience: (resumes?: boolean) => Patience;
}

/** What is to be streamed: a turn that a call starts, or the rest of one that there is. */
export interface Streamed {
  start?: (options: CallOptions) => AsyncIterable<{ event?: TurnEvent | undefined; revision: bigint }>;
  turnId?: string;
  afterSequence?: number;
  signal?: AbortSignal | undefined;
  /** Whether some of it may have arrived already. */
  resumes?: boolean;
  /** Called when the server has accepted a call, which may be long before its first event. */
  onAccepted?: () => void;
  /** Called with each revision of the vault that comes with an event. */
  onRevision?: (revision: bigint) => void;
}

/** Yields the events of a turn, each once and in order, to its end. Throws MetamorphError. */
export async function* resuming(
  { chat, patience: begun }: Streams,
  { start, signal, resumes, onAccepted, onRevision, ...from }: Streamed,
): AsyncGenerator<TurnEvent, void> {
  const patience = begun(resumes);
  let { turnId = "", afterSequence: sequence = 0 } = from;
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
      for await (const { event, revision } of stream) {
        if (!event) continue;
        onRevision?.(revision);
        const last = event.event.case === "turnFinished";
        // The last event may be the first of a stream, because the others have expired.
        if (event.sequence > sequence + 1 && !(first && last)) {
          throw incomplete(`event ${event.sequence} follows event ${sequence}`);
        }
        first = false;
        if (event.sequence <= sequence) continue;
        ({ turnId, sequence } = event);
        patience.progress();
        yield event;
        if (last) return await ended(stream);
      }
      if (!start && (await isOver(chat, turnId, sequence, aborted))) return;
      throw incomplete(`the stream ended after event ${sequence}, before TurnFinished`);
    } catch (error) {
      await patience.wait(error, signal);
    }
  }
}

// Resolves when a stream ends after the last event, however it does, or does not in time. To leave it any earlier would
// make a call that has succeeded one that was cancelled.
async function ended(stream: AsyncIterable<unknown>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<void>((resolve) => (timer = setTimeout(resolve, END_TIMEOUT_MS)));
  await Promise.race([stream[Symbol.asyncIterator]().next(), late]).catch(() => {});
  clearTimeout(timer);
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
    this.first = this.#advance();
    // It fails for those who ask for it.
    this.first.catch(() => {});
  }

  next(): Promise<IteratorResult<TurnEvent, void>> {
    if (this.#begun) return this.#advance();
    this.#begun = true;
    return this.first;
  }

  async #advance(): Promise<IteratorResult<TurnEvent, void>> {
    let goesOn = false;
    try {
      const result = await this.#events.next();
      goesOn = !result.done;
      return result;
    } finally {
      // The caller's signal may outlive it.
      if (!goesOn) this.#task.end();
    }
  }

  leave(): void {
    this.#task.end();
  }
}

// The latest revision that has arrived.
class Revision {
  latest = 0n;

  readonly add = (revision: bigint): void => {
    if (revision > this.latest) this.latest = revision;
  };
}

/**
 * The reply of a turn. Iterate over it for its events, each of which arrives once, and in order.
 *
 * Leaving the loop ends the stream only: the turn goes on, and its reply is stored. Another loop and `text` go on after the
 * last event that arrived here, as `final` does. `cancel` stops the turn.
 */
export class Reply implements AsyncIterable<TurnEvent> {
  readonly turnId: string;
  readonly #streams: Streams;
  readonly #signal: AbortSignal | undefined;
  #stream: Stream | undefined;
  #sequence: number;
  #finished: TurnFinished | undefined;
  readonly #revision: Revision;
  // Each resolves when a loop does not go on.
  readonly #loops = new Set<Promise<void>>();

  private constructor(
    streams: Streams,
    stream: Stream,
    { turnId = "", afterSequence = 0, signal }: Streamed,
    revision: Revision,
  ) {
    this.turnId = turnId;
    this.#streams = streams;
    this.#stream = stream;
    this.#sequence = afterSequence;
    this.#signal = signal;
    this.#revision = revision;
  }

  /** @internal Returns the reply of a turn once it is stored, as its first event says. Throws what refuses it. */
  static async started(streams: Streams, from: Streamed): Promise<Reply> {
    const revision = new Revision();
    const stream = new Stream(streams, { ...from, onRevision: revision.add });
    const { value: first } = await stream.first;
    if (!first) throw incomplete("the stream ended before its first event");
    return new Reply(streams, stream, { ...from, turnId: first.turnId }, revision);
  }

  /** @internal Returns the rest of a turn's reply once the server streams it. Throws what refuses it. */
  static followed(streams: Streams, from: Streamed): Promise<Reply> {
    return new Promise((resolve, reject) => {
      const onAccepted = () => resolve(reply);
      const revision = new Revision();
      const stream = new Stream(streams, { ...from, onAccepted, onRevision: revision.add });
      const reply = new Reply(streams, stream, from, revision);
      // Of a server that answers with its first event, or of a turn that has no more.
      stream.first.then(onAccepted, reject);
    });
  }

  /**
   * The vault's revision, or a later one, once the last event with one was stored, or 0n if none has arrived. It is the
   * `atLeastRevision` of requests that are to see it.
   */
  get revision(): bigint {
    return this.#revision.latest;
  }

  [Symbol.asyncIterator](): AsyncIterableIterator<TurnEvent> {
    let end: (() => void) | undefined;
    const ended = () => {
      end?.();
      end = undefined;
    };
    return {
      next: async () => {
        end ??= this.#loop();
        try {
          return await this.#next();
        } finally {
          if (this.#finished || !this.#stream) ended();
        }
      },
      return: async () => (this.#leave(), ended(), OVER),
      [Symbol.asyncIterator]() {
        return this;
      },
    };
  }

  // Begins a loop, and returns what ends it.
  #loop(): () => void {
    let resolve = () => {};
    const ended = new Promise<void>((resolved) => (resolve = resolved));
    this.#loops.add(ended);
    return () => {
      this.#loops.delete(ended);
      resolve();
    };
  }

  async #next(): Promise<IteratorResult<TurnEvent, void>> {
    if (this.#finished && !this.#stream) return OVER;
    const stream = (this.#stream ??= new Stream(this.#streams, this.#after(this.#sequence)));
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

  #after(afterSequence: number): Streamed {
    const onRevision = this.#revision.add;
    return { turnId: this.turnId, afterSequence, signal: this.#signal, resumes: true, onRevision };
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
   *
   * A loop that goes on beside it has all events: this waits until it has ended or is left, so await it after the loop or
   * beside it, and not in its body.
   */
  async final(): Promise<TurnFinished> {
    // Those that begin in the same tick come first.
    do await Promise.all(this.#loops);
    while (this.#loops.size);
    for await (const _ of this);
    if (!this.#finished) {
      // It was followed from its last event.
      for await (const { event } of resuming(this.#streams, this.#after(this.#sequence - 1))) {
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
