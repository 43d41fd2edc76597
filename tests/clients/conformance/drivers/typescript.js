// The driver of the TypeScript client. It runs in that client's directory, whose packages it imports.
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { setTimeout } from "node:timers/promises";
import { fromJson, toJson } from "@bufbuild/protobuf";
import * as metamorph from "metamorph-client";

const { MetamorphClient, MetamorphError, ContentBlockSchema, GenerationOptionsSchema } = metamorph;
const SERVICES = { chat: metamorph.ChatService, vault: metamorph.VaultService, admin: metamorph.AdminService };
const LISTS = {
  sessions: ["listSessions", metamorph.SessionSchema],
  messages: ["listMessages", metamorph.MessageSchema],
  turns: ["listTurns", metamorph.TurnSchema],
  memories: ["listMemories", metamorph.MemorySchema],
  search_messages: ["searchMessages", metamorph.MessageMatchSchema],
};

let client, others, retries, tokens, replies, downloads;
forget();

function forget() {
  [others, retries, tokens, replies, downloads] = [{}, [], 0, {}, {}];
}

const clientOf = ({ by }) => (by === undefined ? client : others[by]);

const DO = {
  connect({ target, token, tls, vault, timeout, give_up_after: giveUpAfter }) {
    client?.close();
    forget();
    client = new MetamorphClient(target, {
      ...(token !== undefined && { token: tokenOf(token) }),
      ...(tls !== undefined && { tls: tlsOf(tls) }),
      ...(vault !== undefined && { vault }),
      ...(timeout !== undefined && { timeoutMs: timeout * 1000 }),
      ...(giveUpAfter !== undefined && { giveUpAfterMs: giveUpAfter * 1000 }),
      onRetry: (error) => retries.push(errorOf(error)),
    });
    return {};
  },
  as({ name, token }) {
    others[name] = client.withToken(tokenOf(token));
    return {};
  },
  close({ after, ...asked }) {
    const closing = clientOf(asked);
    if (after === undefined) closing.close();
    else setTimeout(after * 1000).then(() => closing.close());
    return {};
  },
  async call(asked) {
    const { method, call, request } = stub(asked);
    return { response: toJson(method.output, await call(request, calling(asked))) };
  },
  async stream(asked) {
    const { method, call, request } = stub(asked);
    const responses = [];
    for await (const response of call(request, calling(asked))) responses.push(toJson(method.output, response));
    return { responses };
  },
  async create_session({ title, model, system_prompt: systemPrompt, metadata, labels, by }) {
    const session = await clientOf({ by }).createSession({ title, model, systemPrompt, metadata, labels });
    return { session: toJson(metamorph.SessionSchema, session) };
  },
  async start(asked) {
    return begun(asked, await clientOf(asked).start(asked.session_id, contentOf(asked), sending(asked)));
  },
  send(asked) {
    replies[asked.reply] = { events: clientOf(asked).send(asked.session_id, contentOf(asked), sending(asked)) };
    return {};
  },
  async regenerate(asked) {
    return begun(asked, await clientOf(asked).regenerate(asked.user_message_id, sending(asked)));
  },
  async follow(asked) {
    return begun(asked, await clientOf(asked).follow(asked.turn_id, asked.after_sequence));
  },
  async next({ reply, count = Infinity }) {
    const events = [];
    try {
      while (events.length < count) {
        const { value, done } = await replies[reply].events.next();
        if (done) return { events, ended: true };
        events.push(eventOf(value));
      }
    } catch (error) {
      throw Object.assign(error, { events });
    }
    return { events, ended: false };
  },
  async final({ reply }) {
    return { turn_finished: toJson(metamorph.TurnFinishedSchema, await replies[reply].reply.final()) };
  },
  async text({ reply }) {
    let text = "";
    for await (const part of replies[reply].reply.text()) text += part;
    return { text };
  },
  async cancel({ reply, turn_id: turnId, ...asked }) {
    const turn = await (turnId ? clientOf(asked).cancel(turnId) : replies[reply].reply.cancel());
    return { turn: toJson(metamorph.TurnSchema, turn) };
  },
  async abort({ reply }) {
    await replies[reply].events.return();
    return {};
  },
  list({ what, session_id: sessionId, query, page_size: pageSize, take, by }) {
    const listing = clientOf({ by });
    const [method, schema] = LISTS[what];
    const first = [sessionId, query].filter((argument) => argument !== undefined);
    return taken(listing[method](...first, { ...(pageSize && { pageSize }) }), schema, take);
  },
  pages(asked) {
    const { method, call, request } = stub(asked);
    const list = method.output.fields.find(({ fieldKind, listKind }) => fieldKind === "list" && listKind === "message");
    return taken(clientOf(asked).pages(call, request), list?.message, asked.take);
  },
  async upload({ path, how, media_type: mediaType, by }) {
    const bytes = readFileSync(path);
    const source = { path, data: bytes, stream: piecesOf(bytes) }[how];
    return { attachment: toJson(metamorph.AttachmentSchema, await clientOf({ by }).upload(source, { mediaType })) };
  },
  download({ attachment_id: attachmentId, download, by }) {
    downloads[download] = { chunks: clientOf({ by }).download(attachmentId), digest: createHash("sha256"), size: 0 };
    return {};
  },
  async read({ download, count = Infinity }) {
    const found = downloads[download];
    let ended = false;
    for (let left = count; left > 0 && !ended; left--) {
      const { value, done } = await found.chunks.next();
      ended = Boolean(done);
      if (done) break;
      found.digest.update(value);
      found.size += value.length;
    }
    return { size: found.size, sha256: found.digest.copy().digest("hex"), ended };
  },
  async run_tools(asked) {
    const { tools, seen } = toolsOf(asked.tools);
    const finished = await clientOf(asked).runTools(asked.session_id, contentOf(asked), tools, {
      ...sending(asked),
      ...(asked.max_rounds !== undefined && { maxRounds: asked.max_rounds }),
    });
    return { turn_finished: toJson(metamorph.TurnFinishedSchema, finished), calls: seen.calls, most_at_once: seen.most };
  },
  seen: () => ({ retries, tokens }),
};

function tokenOf(described) {
  if (typeof described !== "object") return described;
  const { kind, values, seconds, fails_from: first = Infinity, fails_to: last = Infinity } = described;
  const ask = () => {
    if (++tokens >= first && tokens <= last) throw new RangeError("the issuer is down");
    return values[Math.min(tokens, values.length) - 1];
  };
  if (kind === "slow") return () => setTimeout(seconds * 1000, ask());
  return kind === "async" ? async () => ask() : ask;
}

function tlsOf(described) {
  if (described === true) return true;
  const { as, ...files } = described;
  if (as !== "bytes") return files;
  return Object.fromEntries(Object.entries(files).map(([name, path]) => [name, readFileSync(path)]));
}

function stub({ service, method: name, request, by }) {
  const method = SERVICES[service].methods.find((method) => method.name === name);
  return { method, call: clientOf({ by })[service][method.localName], request: fromJson(method.input, request) };
}

function calling({ timeout, metadata }) {
  return { ...(timeout !== undefined && { timeoutMs: timeout * 1000 }), ...(metadata && { headers: metadata }) };
}

function sending({ options, labels, request_id: requestId, parent_message_id: parentMessageId }) {
  return { options: options && fromJson(GenerationOptionsSchema, options), labels, requestId, parentMessageId };
}

function contentOf({ content }) {
  return typeof content === "string" ? content : content.map((block) => fromJson(ContentBlockSchema, block));
}

function begun({ reply: name }, reply) {
  replies[name] = { reply, events: reply[Symbol.asyncIterator]() };
  return { turn_id: reply.turnId };
}

async function taken(items, schema, take = Infinity) {
  const found = [];
  for await (const item of items) {
    found.push(toJson(schema, item));
    if (found.length === take) break;
  }
  return { items: found };
}

async function* piecesOf(bytes) {
  for (let start = 0; start < bytes.length; start += 100_000) yield bytes.subarray(start, start + 100_000);
}

function toolsOf(names) {
  const seen = { calls: [], most: 0 };
  let running = 0;
  const object = (properties) => ({ type: "object", properties, required: Object.keys(properties) });
  const all = [
    ["add", "Adds two numbers.", object({ a: { type: "integer" }, b: { type: "integer" } }), ({ a, b }) => a + b],
    ["boom", "Fails.", object({}), () => Promise.reject(new Error("boom"))],
    ["slow", "Returns a text after a while.", object({ text: { type: "string" } }), ({ text }) => setTimeout(200, text)],
  ];
  const tools = all.map(([name, description, inputSchema, work]) => ({
    name,
    description,
    inputSchema,
    async run(input) {
      seen.calls.push(name);
      seen.most = Math.max(seen.most, ++running);
      try {
        return await work(input);
      } finally {
        running--;
      }
    },
  }));
  return { tools: tools.filter(({ name }) => names.includes(name)), seen };
}

function eventOf({ turnId, sequence, event }) {
  const kind = (event.case ?? "").replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
  return {
    turn_id: turnId,
    sequence,
    kind,
    ...(kind === "text_delta" && { text: event.value.text }),
    ...(kind === "turn_finished" && { status: metamorph.TurnStatusSchema.value[event.value.status].name }),
  };
}

function errorOf(error) {
  if (error instanceof MetamorphError) {
    const { code, reason, message, metadata, retryDelay, violations, callId, resumable } = error;
    return {
      ...{ type: "MetamorphError", code, reason, message, metadata, violations, resumable },
      ...{ retry_delay: retryDelay ?? null, call_id: callId, text: String(error) },
    };
  }
  const usage = error instanceof TypeError;
  if (!usage) console.error(error);
  return { type: usage ? "usage" : `other: ${error.constructor.name}`, message: error.message };
}

for await (const line of createInterface({ input: process.stdin })) {
  const { id, ...asked } = JSON.parse(line);
  let answer;
  try {
    answer = { ok: await DO[asked.do](asked) };
  } catch (error) {
    answer = { error: errorOf(error), ...(error.events && { ok: { events: error.events } }) };
  }
  process.stdout.write(`${JSON.stringify({ id, ...answer })}\n`);
}
client?.close();
