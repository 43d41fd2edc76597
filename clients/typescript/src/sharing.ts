import { Code, ConnectError, type Transport } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { Calls, type Identity } from "./calls.js";
import { connection, type TLS } from "./connection.js";
import type { MetamorphError } from "./errors.js";
import { Patience } from "./patience.js";
import { Running } from "./running.js";

/** How calls are made, whoever makes them. */
export interface Settings {
  target: string;
  tls: boolean | TLS;
  timeoutMs: number;
  giveUpAfterMs: number;
  onRetry: (error: MetamorphError) => void;
}

/** What clients of one connection share. Throws TypeError for settings with which no call could be made. */
export class Shared {
  readonly patience: (resumes?: boolean) => Patience;
  readonly calls: (identity: Identity) => Calls;
  readonly close: () => void;

  constructor({ target, tls, timeoutMs, giveUpAfterMs, onRetry }: Settings) {
    const { sessionManager, baseUrl } = connection(target, tls);
    const wire: Transport = createGrpcTransport({ sessionManager, baseUrl });
    const running = new Running();
    this.patience = (resumes) => new Patience(giveUpAfterMs, onRetry, running, resumes);
    this.calls = (identity) => new Calls(wire, identity, timeoutMs, running);
    this.close = () => {
      running.close();
      sessionManager.abort(new ConnectError("the client is closed", Code.Canceled));
    };
  }
}
