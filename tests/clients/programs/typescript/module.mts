// A strict module, of what the package exports, and of nothing else. It prints what it finds.
import {
  clone,
  type Content,
  create,
  equals,
  ErrorInfoSchema,
  fromBinary,
  fromJson,
  isMessage,
  type JsonValue,
  MetamorphClient,
  MetamorphError,
  type Session,
  SessionSchema,
  ThinkingConfigSchema,
  timestampDate,
  toBinary,
  toJson,
  type ToolFunction,
  ToolSchema,
  type TurnEvent,
} from "metamorph-client";

const client = new MetamorphClient(process.env.METAMORPH_TARGET, {
  token: async () => process.env.METAMORPH_TOKEN,
  onRetry: ({ code, reason, retryDelay }: MetamorphError) => console.error(code, reason, retryDelay?.toFixed(1)),
});
const content: Content = [{ block: { case: "text", value: { text: "Hello" } } }];
const session: Session = await client.createSession({ labels: { app: "test" } });
const reply = await client.start(session.sessionId, content, { options: { maxOutputTokens: 100 } });
const events: TurnEvent[] = [];
for await (const event of reply) events.push(event);
console.log(events.at(0)?.event.case, events.at(-1)?.event.case);
const remembering = await client.createSession({ recallTokens: 100, memoryTool: true });
console.log(remembering.recallTokens, remembering.memoryTool);
await client.chat.deleteSession({ sessionId: remembering.sessionId });

const add: ToolFunction = {
  name: "add",
  description: "Adds two numbers.",
  inputSchema: { type: "object", properties: { a: { type: "number" }, b: { type: "number" } } },
  run: ({ a, b }: { a: number; b: number }) => a + b,
};
const finished = await client.runTools(session.sessionId, "Hello", [add]);
console.log(finished.message?.content.length);
for await (const memory of client.pages(client.vault.listMemories, { pageSize: 100 })) console.log(memory.content);
for await (const { title } of client.listSessions({ pageSize: 1, archived: false })) console.log(typeof title);
// @ts-expect-error: this method has no pages.
const unpaged = () => client.pages(client.chat.getSession, {});
try {
  unpaged();
} catch (error) {
  console.log(error instanceof TypeError);
}
try {
  await client.chat.getSession({ sessionId: "none" });
} catch (error) {
  const { code, reason, metadata } = MetamorphError.from(error);
  console.log(code, reason, metadata.session_id);
}

// Abort is not cancel.
const aborting = new AbortController();
const aborted = await client.start(session.sessionId, "Hello again", { signal: aborting.signal });
aborting.abort("enough");
try {
  await aborted.final();
} catch (error) {
  const { code, resumable, cause } = MetamorphError.from(error);
  console.log(code, resumable, cause);
}
for await (const event of await client.follow(aborted.turnId)) {
  if (event.event.case === "turnFinished") console.log(event.event.value.message?.partial);
}

// Messages, as JSON and as bytes.
const json: JsonValue = toJson(SessionSchema, session);
const copies = [fromJson(SessionSchema, json), fromBinary(SessionSchema, toBinary(SessionSchema, session)), clone(SessionSchema, session)];
console.log(copies.every((copy) => equals(SessionSchema, copy, session)), isMessage(create(ToolSchema, { name: "add" }), ToolSchema));
console.log(session.createTime && timestampDate(session.createTime) <= new Date());
console.log(ErrorInfoSchema.typeName, ToolSchema.typeName, ThinkingConfigSchema.typeName);
client.close();
