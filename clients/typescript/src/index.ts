export type { Source } from "./attachments.js";
export type { Token } from "./calls.js";
export {
  type Abortable,
  type ClientOptions,
  MetamorphClient,
  type NewSession,
  type ReplyOptions,
  type SendOptions,
} from "./client.js";
export type { TLS } from "./connection.js";
export * from "./everywhere.js";
export type { ItemOf, Page } from "./pages.js";
export type { Reply } from "./replies.js";
export type { ToolFunction } from "./tools.js";
