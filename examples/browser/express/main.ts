// Streams replies to a browser: `npm --prefix examples/browser/express start` after `npm ci`, then http://localhost:8000.
//
// The cookie `token` is the user's own token, such as token_exchange.py sets. Each call passes it on, so that the server
// decides what this user may do, and in which vault. In dev mode there need not be one.
import { fileURLToPath } from "node:url";
import express, { type ErrorRequestHandler, type Request } from "express";
import { MetamorphClient, MetamorphError, toJsonString, TurnEventSchema, TurnStatus } from "metamorph-client";

const STATUSES: Partial<Record<string, number>> = {
  INVALID_ARGUMENT: 422, ALREADY_EXISTS: 422, OUT_OF_RANGE: 422, UNAUTHENTICATED: 401, PERMISSION_DENIED: 403,
  NOT_FOUND: 404, FAILED_PRECONDITION: 409, ABORTED: 409, RESOURCE_EXHAUSTED: 429, UNAVAILABLE: 503,
};
const TEXT = /^.{1,8000}$/su, SESSION_ID = /^[\x21-\x7e]*$/; // Characters of Unicode, of which an emoji is one.
const { METAMORPH_TARGET = "localhost:50051", PORT = "8000" } = process.env;

// One connection for all users. It has no token of its own: nobody's request may become the service's.
const connection = new MetamorphClient(METAMORPH_TARGET, { giveUpAfterMs: 20_000 });
function clientOf(request: Request): MetamorphClient {
  const token = /(?:^|;\s*)token=([^;]*)/.exec(request.headers.cookie ?? "")?.[1] ?? "";
  if (/[^\x21-\x7e]/.test(token)) throw new MetamorphError("UNAUTHENTICATED", "the cookie is no token");
  return connection.withToken(token);
}
const app = express();
app.use(express.json({ limit: "64kb" }));

app.post("/replies", async (request, response) => {
  const { text, session_id } = request.body ?? {};
  if (typeof text !== "string" || !TEXT.test(text))
    throw new MetamorphError("INVALID_ARGUMENT", "text must have 1 to 8000 characters");
  if (typeof (session_id ?? "") !== "string" || !SESSION_ID.test(session_id ?? ""))
    throw new MetamorphError("INVALID_ARGUMENT", "session_id must be the ID of a session");
  const client = clientOf(request);
  const requestId = request.get("idempotency-key")?.replace(/^"|"$/g, ""); // With the same one, it takes effect once.
  const sessionId: string = session_id || (await client.createSession({ requestId })).sessionId;
  const left = new AbortController();
  const { turnId } = await client.start(sessionId, text, { requestId, signal: left.signal });
  left.abort(); // This stream only. The turn goes on.
  response.status(201).json({ session_id: sessionId, turn_id: turnId });
});

app.get("/replies/:turnId", async (request, response) => {
  const { turnId } = request.params;
  const client = clientOf(request);
  const [seen, sequence = ""] = (request.get("last-event-id") ?? "").split(":");
  const after = seen === turnId && /^\d{1,9}$/.test(sequence) ? Number(sequence) : 0;
  const { turn } = await client.chat.getTurn({ turnId });
  if (turn!.status !== TurnStatus.RUNNING && after >= turn!.lastSequence)
    return void response.status(204).end(); // Nothing is left: the browser asks no more.
  const left = new AbortController();
  response.on("close", () => left.abort()); // This stream only. The turn goes on.
  const reply = await client.follow(turnId, after, { signal: left.signal });
  response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-cache", "x-accel-buffering": "no" });
  response.flushHeaders();
  try {
    for await (const event of reply) {
      response.write(`id: ${turnId}:${event.sequence}\ndata: ${toJsonString(TurnEventSchema, event)}\n\n`);
    }
  } catch {
    // The browser asks again, with its Last-Event-ID.
  }
  response.end();
});

app.delete("/replies/:turnId", async (request, response) => {
  await clientOf(request).cancel(request.params.turnId);
  response.status(204).end();
});

app.use(express.static(fileURLToPath(new URL("../page", import.meta.url))));

const refuse: ErrorRequestHandler = (error, _request, response, next) => {
  // Of a body that is too large, or no JSON, and of a path that is no UTF-8.
  if (error.status < 500) return void response.status(error.status).json({ reason: "", message: error.message });
  if (!(error instanceof MetamorphError)) return next(error);
  if (error.retryDelay) response.set("retry-after", String(Math.ceil(error.retryDelay)));
  response.status(STATUSES[error.code] ?? 500).json({ reason: error.reason, message: String(error) });
};
app.use(refuse);
app.listen(Number(PORT), "127.0.0.1", () => console.log(`http://localhost:${PORT}`));
