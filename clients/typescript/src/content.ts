import type { MessageInitShape } from "@bufbuild/protobuf";
import type { ContentBlockSchema } from "./gen/metamorph/chat/v1/message_pb.js";

/** The content of a message: text, or blocks. */
export type Content = string | MessageInitShape<typeof ContentBlockSchema>[];

/** Returns the content of a message that consists of text alone. */
export function text(text: string): MessageInitShape<typeof ContentBlockSchema>[] {
  return [{ block: { case: "text", value: { text } } }];
}

/** Returns content as blocks. */
export function blocks(content: Content): MessageInitShape<typeof ContentBlockSchema>[] {
  return typeof content === "string" ? text(content) : content;
}
