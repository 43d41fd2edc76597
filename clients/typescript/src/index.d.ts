import type { Client } from "@connectrpc/connect";
import type { AdminService } from "./gen/metamorph/admin/v1/admin_service_pb.js";
import type { ChatService } from "./gen/metamorph/chat/v1/chat_service_pb.js";
import type { VaultService } from "./gen/metamorph/vault/v1/vault_service_pb.js";

export * from "./gen/metamorph/admin/v1/admin_service_pb.js";
export * from "./gen/metamorph/api/v1/error_reason_pb.js";
export * from "./gen/metamorph/chat/v1/chat_service_pb.js";
export * from "./gen/metamorph/chat/v1/generation_pb.js";
export * from "./gen/metamorph/chat/v1/message_pb.js";
export * from "./gen/metamorph/chat/v1/session_pb.js";
export * from "./gen/metamorph/chat/v1/turn_pb.js";
export * from "./gen/metamorph/vault/v1/usage_pb.js";
export * from "./gen/metamorph/vault/v1/vault_service_pb.js";

/**
 * Identifies the caller by a token or, in dev mode only, by the vault alone. A function is called for every call, so
 * that it can return a fresh token, or a promise of one, or an empty one to send none. Calls fail if what it returns is no
 * string. A call whose `headers` have a token or a vault is sent with those alone.
 */
export interface Caller {
  token?: string | (() => string | Promise<string>);
  vault?: string;
}

/** Returns the content of a message that consists of text alone. */
export function text(text: string): { block: { case: "text"; value: { text: string } } }[];

/**
 * Returns clients of the three services on one HTTP/2 connection to `baseUrl`, such as `http://localhost:50051`.
 *
 * A turn's stream that ends OK before `turnFinished`, or leaves out an event, is resumed, and one that yielded nothing is
 * repeated if it has a `requestId`. It fails with Code.Internal if it gets no further. One that ends with an error is
 * not resumed.
 */
export function connect(
  baseUrl: string,
  caller?: Caller,
): {
  chat: Client<typeof ChatService>;
  vault: Client<typeof VaultService>;
  admin: Client<typeof AdminService>;
};
