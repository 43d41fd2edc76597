import { setTimeout } from "node:timers/promises";
import { create } from "@bufbuild/protobuf";
import { Code, ConnectError, createContextKey, createContextValues } from "@connectrpc/connect";
import { ChatService } from "./gen/metamorph/chat/v1/chat_service_pb.js";
import { TurnStatus } from "./gen/metamorph/chat/v1/turn_pb.js";

const { sendMessage, regenerateReply, streamTurn } = ChatService.method;
const METHODS = new Set([sendMessage, regenerateReply, streamTurn]);
// Attempts without a further event, with pauses of up to 100 ms that double.
const ATTEMPTS = 5;
const FIRST_BACKOFF_MS = 100;
const isAttempt = createContextKey(false);

// An interceptor that resumes a turn's stream which ends OK before TurnFinished or leaves out an event. `chat` returns a client of the service.
export function resuming(chat) {
  return (next) => async (request) => {
    const { method, header, signal } = request;
    if (!METHODS.has(method) || request.contextValues.get(isAttempt)) return next(request);
    // The call's own identity. That of the client is added to each attempt.
    const headers = ["authorization", "x-vault-id"].filter((key) => header.has(key)).map((key) => [key, header.get(key)]);
    const options = { headers, signal, contextValues: createContextValues().set(isAttempt, true) };
    let asked;
    async function* tapped() {
      for await (asked of request.message) yield asked;
    }
    const response = await next({ ...request, message: tapped() });
    return { ...response, message: whole(response.message, { chat: chat(), method, asked: () => asked, options }) };
  };
}

async function* whole(messages, { chat, method, asked, options }) {
  const following = method === streamTurn;
  let turnId, sequence;
  for (let attempts = 0; ; attempts++) {
    let finished = false;
    let first = true;
    for await (const { event } of messages) {
      sequence ??= following ? asked().afterSequence : 0;
      const last = event.event.case === "turnFinished";
      // After one that is left out, the others come again. The last one may be alone, because the others have expired.
      const gap = event.sequence > sequence + 1 && !(first && last);
      first = false;
      if (gap || event.sequence <= sequence) continue;
      ({ turnId, sequence } = event);
      finished = last;
      attempts = 0;
      yield create(method.output, { event });
    }
    if (finished) return;
    const request = asked();
    if (following) turnId = request.turnId;
    sequence ??= following ? request.afterSequence : 0;
    if (following && (await ended(chat, turnId, sequence, options))) return;
    if (attempts >= ATTEMPTS || !(turnId || request.requestId)) {
      throw new ConnectError(`the stream ended after event ${sequence}, before TurnFinished`, Code.Internal);
    }
    await setTimeout(Math.random() * FIRST_BACKOFF_MS * 2 ** attempts, undefined, { signal: options.signal });
    messages = turnId
      ? chat.streamTurn({ turnId, afterSequence: sequence }, options)
      : chat[method.localName](request, options);
  }
}

// Whether a turn has no event after a sequence, and will have none: then StreamTurn ends OK without an event.
async function ended(chat, turnId, sequence, options) {
  const { turn } = await chat.getTurn({ turnId }, options);
  return turn.status !== TurnStatus.RUNNING && turn.lastSequence <= sequence;
}
