import { readFileSync } from "node:fs";
import { createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { AdminService } from "./gen/metamorph/admin/v1/admin_service_pb.js";
import { ChatService } from "./gen/metamorph/chat/v1/chat_service_pb.js";
import { VaultService } from "./gen/metamorph/vault/v1/vault_service_pb.js";
import { resuming } from "./resuming.js";

export * from "./gen/metamorph/admin/v1/admin_service_pb.js";
export * from "./gen/metamorph/api/v1/error_reason_pb.js";
export * from "./gen/metamorph/chat/v1/chat_service_pb.js";
export * from "./gen/metamorph/chat/v1/generation_pb.js";
export * from "./gen/metamorph/chat/v1/message_pb.js";
export * from "./gen/metamorph/chat/v1/session_pb.js";
export * from "./gen/metamorph/chat/v1/turn_pb.js";
export * from "./gen/metamorph/vault/v1/usage_pb.js";
export * from "./gen/metamorph/vault/v1/vault_service_pb.js";

const channel = JSON.parse(readFileSync(new URL("./gen/channel.json", import.meta.url), "utf8"));

export function connect(baseUrl, { token, vault } = {}) {
  const identify = (next) => async (request) => {
    // Not one of each: the server refuses a vault beside a token.
    if (request.header.has("authorization") || request.header.has("x-vault-id")) return next(request);
    const fresh = textOf("token", await (typeof token === "function" ? token() : token));
    const chosen = textOf("vault", vault);
    if (fresh) request.header.set("authorization", `Bearer ${fresh}`);
    if (chosen) request.header.set("x-vault-id", chosen);
    return next(request);
  };
  const transport = createGrpcTransport({
    baseUrl,
    interceptors: [resuming(() => chat), identify],
    pingIntervalMs: channel.keepaliveTimeMs,
    pingTimeoutMs: channel.keepaliveTimeoutMs,
    pingIdleConnection: true,
  });
  const chat = createClient(ChatService, transport);
  return {
    chat,
    vault: createClient(VaultService, transport),
    admin: createClient(AdminService, transport),
  };
}

// Others would be sent as their name, such as "[object Object]", of which no server knows anything.
function textOf(name, value) {
  if (value === undefined || value === null || typeof value === "string") return value;
  throw new TypeError(`the ${name} must be a string, not of type ${typeof value}`);
}

export function text(text) {
  return [{ block: { case: "text", value: { text } } }];
}
