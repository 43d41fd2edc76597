import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { Client } from "@connectrpc/connect";
import { MetamorphError } from "./errors.js";
import type { Attachment } from "./gen/metamorph/chat/v1/attachment_pb.js";
import type { ChatService, UploadAttachmentRequestSchema } from "./gen/metamorph/chat/v1/chat_service_pb.js";
import type { Patience } from "./patience.js";

/** What to upload: bytes, the path of a file, or a stream of bytes. */
export type Source = Uint8Array | string | Iterable<Uint8Array> | AsyncIterable<Uint8Array>;

const CHUNK_BYTES = 256 * 1024;

interface Transferring {
  chat: Client<typeof ChatService>;
  patience: Patience;
  signal?: AbortSignal | undefined;
}

/** Returns the attachment of what is uploaded. Throws MetamorphError, and what the source throws when it is read. */
export async function uploaded(
  source: Source,
  mediaType: string,
  { chat, patience, signal }: Transferring,
): Promise<Attachment> {
  const options = signal ? { signal } : {};
  const content = typeof source === "string" ? await readFile(source) : source;
  if (!(Symbol.iterator in Object(content) || Symbol.asyncIterator in Object(content))) {
    throw new TypeError("what is uploaded must be bytes, the path of a file, or a stream of bytes");
  }
  let fault: { error: unknown } | undefined;
  for (;;) {
    const pieces = content instanceof Uint8Array ? [content] : read(content, (error) => (fault = { error }));
    try {
      return (await chat.uploadAttachment(requests(pieces, mediaType), options)).attachment!;
    } catch (error) {
      if (fault) throw fault.error;
      // A stream is used up.
      if (!(content instanceof Uint8Array)) throw error;
      await patience.wait(error, signal);
    }
  }
}

async function* read<T>(source: Iterable<T> | AsyncIterable<T>, onFault: (error: unknown) => void): AsyncGenerator<T> {
  try {
    for await (const piece of source) {
      if (!(piece instanceof Uint8Array)) {
        throw new TypeError(`a stream of bytes is uploaded, and a piece of it is of type ${typeof piece}, not Uint8Array`);
      }
      yield piece;
    }
  } catch (error) {
    onFault(error);
    throw error;
  }
}

async function* requests(
  pieces: Iterable<Uint8Array> | AsyncIterable<Uint8Array>,
  mediaType: string,
): AsyncGenerator<MessageInitShape<typeof UploadAttachmentRequestSchema>> {
  yield { part: { case: "header", value: { mediaType } } };
  for await (const piece of pieces) {
    for (let start = 0; start < piece.length; start += CHUNK_BYTES) {
      yield { part: { case: "chunk", value: piece.subarray(start, start + CHUNK_BYTES) } };
    }
  }
}

/** Yields the bytes of an attachment. Throws MetamorphError, also if size and SHA-256 are not the attachment's. */
export async function* downloaded(
  attachmentId: string,
  { chat, patience, signal }: Transferring,
): AsyncGenerator<Uint8Array, void> {
  const digest = createHash("sha256");
  let size = 0;
  for (;;) {
    let attachment: Attachment | undefined;
    let position = 0;
    try {
      for await (const { part } of chat.downloadAttachment({ attachmentId }, signal ? { signal } : {})) {
        if (part.case === "attachment") attachment = part.value;
        if (part.case !== "chunk") continue;
        // What an earlier call has brought already.
        const chunk = part.value.subarray(Math.max(0, size - position));
        position += part.value.length;
        if (!chunk.length) continue;
        digest.update(chunk);
        size += chunk.length;
        patience.progress();
        yield chunk;
      }
    } catch (error) {
      await patience.wait(error, signal);
      continue;
    }
    if (size !== attachment?.sizeBytes || digest.digest("hex") !== attachment.sha256) {
      const message = `${size} bytes of attachment ${attachmentId} arrived, which are not those that were stored`;
      throw new MetamorphError("DATA_LOSS", message);
    }
    return;
  }
}
