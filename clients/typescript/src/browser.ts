// The package as browsers have it: messages and errors, to read what a service of yours passes on, and no client.
export * from "./everywhere.js";

/** Throws an error that says what to do instead: this client runs in Node. */
export class MetamorphClient {
  constructor() {
    throw new Error(
      "MetamorphClient runs in Node, not in a browser: browsers cannot speak gRPC, and would show your token to " +
        "everybody. Call it from a service of yours, and stream its replies to the page, for example as server-sent events.",
    );
  }
}
