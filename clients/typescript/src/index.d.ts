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

/** Who calls: by a token, or in dev mode by the vault alone. */
export interface Caller {
  token?: string;
  vault?: string;
}

/** The content of a message that consists of text alone. */
export function text(text: string): { block: { case: "text"; value: { text: string } } }[];

/** Clients of the three services over one HTTP/2 connection, for example to `http://localhost:50051`. */
export function connect(
  baseUrl: string,
  caller?: Caller,
): {
  chat: Client<typeof ChatService>;
  vault: Client<typeof VaultService>;
  admin: Client<typeof AdminService>;
};
