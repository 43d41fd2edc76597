import { isTokenFailure } from "./calls.js";
import { MetamorphError } from "./errors.js";
import type { Running } from "./running.js";

const FIRST_BACKOFF_MS = 100;
const LONGEST_BACKOFF_MS = 5_000;

/** How long a client goes on trying: until so many milliseconds have passed without progress. */
export class Patience {
  readonly #giveUpAfterMs: number;
  readonly #onRetry: (error: MetamorphError) => void;
  readonly #running: Running;
  #resumes: boolean;
  #attempts = 0;
  #failingSince: number | undefined;

  /** `resumes` if the first attempt goes on with something that has begun. */
  constructor(giveUpAfterMs: number, onRetry: (error: MetamorphError) => void, running: Running, resumes = false) {
    this.#giveUpAfterMs = giveUpAfterMs;
    this.#onRetry = onRetry;
    this.#running = running;
    this.#resumes = resumes;
  }

  /** Starts anew, because something has arrived. */
  progress(): void {
    this.#attempts = 0;
    this.#failingSince = undefined;
  }

  /** Resolves when it is time for the next attempt. Throws the error if none can help, or it would come too late. */
  async wait(error: unknown, signal?: AbortSignal): Promise<void> {
    const lost = this.#lost(error);
    this.#resumes = true;
    if (!lost) throw error;
    this.#failingSince ??= performance.now();
    // Full jitter (AWS Architecture Blog, 2015).
    const backoff = Math.random() * Math.min(FIRST_BACKOFF_MS * 2 ** this.#attempts, LONGEST_BACKOFF_MS);
    const delay = lost.retryDelay === undefined ? backoff : lost.retryDelay * 1000;
    if (performance.now() + delay - this.#failingSince > this.#giveUpAfterMs) throw error;
    this.#onRetry(lost);
    await this.#running.pause(delay, signal);
    this.#attempts++;
  }

  // Returns the error of an attempt that another one may make good.
  #lost(error: unknown): MetamorphError | undefined {
    if (this.#resumes && isTokenFailure(error)) {
      const message = `no token: ${error instanceof Error ? error.message : String(error)}`;
      return new MetamorphError("UNAVAILABLE", message, { cause: error });
    }
    return error instanceof MetamorphError && error.resumable ? error : undefined;
  }
}
