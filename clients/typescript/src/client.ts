import { randomUUID } from "node:crypto";
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { CallOptions, Client } from "@connectrpc/connect";
import { downloaded, type Source, uploaded } from "./attachments.js";
import { Calls, Identity, stub, type Token } from "./calls.js";
import type { TLS } from "./connection.js";
import { blocks, type Content } from "./content.js";
import type { MetamorphError } from "./errors.js";
import { AdminService } from "./gen/metamorph/admin/v1/admin_service_pb.js";
import type { Attachment } from "./gen/metamorph/chat/v1/attachment_pb.js";
import {
  ChatService,
  type ListMessagesRequestSchema,
  type ListSessionsRequestSchema,
  type ListTurnsRequestSchema,
  type MessageMatch,
  type SearchMessagesRequestSchema,
} from "./gen/metamorph/chat/v1/chat_service_pb.js";
import type { GenerationOptionsSchema } from "./gen/metamorph/chat/v1/generation_pb.js";
import type { Message } from "./gen/metamorph/chat/v1/message_pb.js";
import type { Session } from "./gen/metamorph/chat/v1/session_pb.js";
import type { Turn, TurnEvent, TurnFinished } from "./gen/metamorph/chat/v1/turn_pb.js";
import type { Memory } from "./gen/metamorph/vault/v1/memory_pb.js";
import { type ListMemoriesRequestSchema, VaultService } from "./gen/metamorph/vault/v1/vault_service_pb.js";
import { checkPaged, each, type ItemOf, type Page } from "./pages.js";
import { Reply, resuming, type Streamed, type Streams } from "./replies.js";
import { Shared } from "./sharing.js";
import { offered, results, type ToolFunction } from "./tools.js";

export interface ClientOptions {
  /** Sent as a Bearer token. A function is asked for one for every attempt, so that it can return a fresh one. */
  token?: Token;
  /** `true`, or the files of TLS. The target grpcs:// means `true`. */
  tls?: boolean | TLS | undefined;
  /** Selects a vault in dev mode. */
  vault?: string | undefined;
  /** The deadline of unary calls that state none, in milliseconds. 60,000 by default. */
  timeoutMs?: number | undefined;
  /** How long what resumes goes on without progress, in milliseconds. 120,000 by default. */
  giveUpAfterMs?: number | undefined;
  /** Called with each error before what resumes tries again. */
  onRetry?: ((error: MetamorphError) => void) | undefined;
}

/** Ends what goes on in this program. It stops no turn: `cancel` does. */
export interface Abortable {
  signal?: AbortSignal | undefined;
}

export interface ReplyOptions extends Abortable {
  options?: MessageInitShape<typeof GenerationOptionsSchema> | undefined;
  labels?: Record<string, string> | undefined;
  /** Generated if there is none: a call whose response was lost is repeated, and takes effect once. */
  requestId?: string | undefined;
}

export interface SendOptions extends ReplyOptions {
  /** The message that it follows. By default the newest of the session. */
  parentMessageId?: string | undefined;
}

export interface NewSession {
  title?: string | undefined;
  model?: string | undefined;
  systemPrompt?: string | undefined;
  metadata?: Record<string, string> | undefined;
  labels?: Record<string, string> | undefined;
  /** How many tokens of the vault's memories may be put to each message that is sent. None by default. */
  recallTokens?: number | undefined;
  /** Whether the model has the provider's memory tool, which the server runs. */
  memoryTool?: boolean | undefined;
  requestId?: string | undefined;
}

type Unary<I, O> = (request: I, options?: CallOptions) => Promise<O>;
type Query<S extends Parameters<typeof import("@bufbuild/protobuf").create>[0]> = Omit<
  Exclude<MessageInitShape<S>, { $typeName: string }>,
  "$typeName" | "$unknown" | "pageToken" | "sessionId" | "query"
>;

/**
 * A client of one server. `target` is host:port or grpc://host:port for plaintext, or grpcs://host:port for TLS.
 *
 * The generated stubs `chat`, `vault` and `admin` have every method of the server. Their calls identify the caller
 * unless their own `headers` have a token or a vault, and throw MetamorphError like all others. Throws TypeError for a
 * target or files of TLS with which no call could be made; calls throw it for a token that is no text.
 */
export class MetamorphClient {
  readonly chat: Client<typeof ChatService>;
  readonly vault: Client<typeof VaultService>;
  readonly admin: Client<typeof AdminService>;
  readonly #shared: Shared;
  readonly #owns: boolean;
  readonly #streams: Streams;

  constructor(target?: string, options?: ClientOptions);
  /** @internal */
  constructor(shared: Shared, options: Pick<ClientOptions, "token">);
  constructor(target: string | Shared = "localhost:50051", options: ClientOptions = {}) {
    const { token, vault, tls = false, timeoutMs = 60_000, giveUpAfterMs = 120_000, onRetry = () => {} } = options;
    this.#owns = !(target instanceof Shared);
    this.#shared = target instanceof Shared ? target : new Shared({ target, tls, timeoutMs, giveUpAfterMs, onRetry });
    const calls = this.#shared.calls(new Identity(token, vault));
    this.chat = stub(ChatService, calls);
    this.vault = stub(VaultService, calls);
    this.admin = stub(AdminService, calls);
    this.#streams = { chat: this.chat, patience: this.#shared.patience };
  }

  /**
   * Returns a client that sends another token over the same connection, as a server has for each of its requests. It has
   * this client's options except `vault`. It is closed with this client: closing it does nothing.
   */
  withToken(token: Token): MetamorphClient {
    return new MetamorphClient(this.#shared, { token });
  }

  /**
   * Ends the connection. What goes on over it, and every further call, throws MetamorphError with the code CANCELLED. Turns
   * go on.
   */
  close(): void {
    if (this.#owns) this.#shared.close();
  }

  /** Creates a session. Throws MetamorphError. */
  async createSession({ requestId, ...session }: NewSession = {}): Promise<Session> {
    return (await this.chat.createSession({ session: given(session), requestId: idOf(requestId) })).session!;
  }

  /**
   * Sends a message, and returns its reply once the message and the turn are stored. Throws MetamorphError if the server
   * refuses it, so that nothing has started, or cannot be reached in time.
   */
  start(sessionId: string, content: Content, options: SendOptions = {}): Promise<Reply> {
    return Reply.started(this.#streams, this.#sent(sessionId, content, options));
  }

  /**
   * Sends a message and yields the events of its turn, each once and in order, even if the connection is lost. Nothing is
   * sent before the first one is asked for. Throws MetamorphError if the server refuses the call, or if for
   * `giveUpAfterMs` it cannot be reached, or its streams bring no further event. The turn may be running even so, and can
   * be followed with `follow`.
   */
  async *send(sessionId: string, content: Content, options: SendOptions = {}): AsyncGenerator<TurnEvent, void> {
    yield* resuming(this.#streams, this.#sent(sessionId, content, options));
  }

  /** Returns another reply to a user's message, once its turn is stored. Throws the errors of `start`. */
  regenerate(userMessageId: string, options: ReplyOptions = {}): Promise<Reply> {
    const { signal, requestId, ...more } = options;
    const request = { userMessageId, requestId: idOf(requestId), ...given(more) };
    return Reply.started(this.#streams, { start: (call) => this.chat.regenerateReply(request, call), signal });
  }

  /**
   * Returns a turn's reply after a sequence, once the server streams it: nothing but the end of the stream, if that was its
   * last event. Throws MetamorphError if the server refuses it, such as for a turn that there is not.
   */
  follow(turnId: string, afterSequence = 0, { signal }: Abortable = {}): Promise<Reply> {
    return Reply.followed(this.#streams, { turnId, afterSequence, signal });
  }

  /** Stops a turn and returns it once it has ended. Does nothing to one that has ended. Throws MetamorphError. */
  async cancel(turnId: string): Promise<Turn> {
    return (await this.chat.cancelTurn({ turnId })).turn!;
  }

  /**
   * Sends a message, runs the tools that the model calls, answers it, and so on. Returns how the last turn ended.
   *
   * Calls of one reply run at the same time. A tool that throws is answered as an error, as is one that there is not.
   * After `maxRounds` answers, 10 by default, the turn is returned as it is: its `stopReason` is TOOL_USE if the model
   * would go on. Throws MetamorphError.
   */
  async runTools(
    sessionId: string,
    content: Content,
    tools: readonly ToolFunction[],
    { maxRounds = 10, parentMessageId, ...more }: Omit<SendOptions, "requestId"> & { maxRounds?: number } = {},
  ): Promise<TurnFinished> {
    const options = { ...more.options, tools: offered(tools) } as NonNullable<SendOptions["options"]>;
    let reply = await this.start(sessionId, content, { ...more, options, parentMessageId });
    let finished = await reply.final();
    for (let round = 0; round < maxRounds; round++) {
      const answers = await results(tools, finished);
      if (!answers.length) break;
      const parent = finished.message?.messageId;
      reply = await this.start(sessionId, answers, { ...more, options, parentMessageId: parent });
      finished = await reply.final();
    }
    return finished;
  }

  /**
   * Stores an image or a document. Throws MetamorphError. Lost connections are survived, except by a stream, which cannot
   * be read twice.
   */
  upload(source: Source, { mediaType, signal }: { mediaType: string } & Abortable): Promise<Attachment> {
    return uploaded(source, mediaType, { chat: this.chat, patience: this.#shared.patience(), signal });
  }

  /**
   * Yields the bytes of an attachment. Lost connections are survived. Throws MetamorphError, in the end with DATA_LOSS if
   * their size or SHA-256 is not the attachment's.
   */
  download(attachmentId: string, { signal }: Abortable = {}): AsyncGenerator<Uint8Array, void> {
    return downloaded(attachmentId, { chat: this.chat, patience: this.#shared.patience(), signal });
  }

  /** Yields sessions, newest activity first, over as many pages as there are. Throws MetamorphError. */
  listSessions(query: Query<typeof ListSessionsRequestSchema> = {}): AsyncGenerator<Session, void> {
    return this.pages(this.chat.listSessions, query);
  }

  /** Yields the messages of a branch, by default the current one, oldest first. Throws MetamorphError. */
  listMessages(sessionId: string, query: Query<typeof ListMessagesRequestSchema> = {}): AsyncGenerator<Message, void> {
    return this.pages(this.chat.listMessages, { ...query, sessionId });
  }

  /** Yields a session's turns, newest first. Throws MetamorphError. */
  listTurns(sessionId: string, query: Query<typeof ListTurnsRequestSchema> = {}): AsyncGenerator<Turn, void> {
    return this.pages(this.chat.listTurns, { ...query, sessionId });
  }

  /** Yields the vault's memories. Throws MetamorphError. */
  listMemories(query: Query<typeof ListMemoriesRequestSchema> = {}): AsyncGenerator<Memory, void> {
    return this.pages(this.vault.listMemories, query);
  }

  /** Yields the messages that have all words of a query, newest first. Throws MetamorphError. */
  searchMessages(
    query: string,
    more: Query<typeof SearchMessagesRequestSchema> & { sessionId?: string } = {},
  ): AsyncGenerator<MessageMatch, void> {
    return this.pages(this.chat.searchMessages, { ...more, query });
  }

  /**
   * Yields what every page of a List or Search method has, such as `client.pages(client.vault.listSecrets, {})`. Throws
   * MetamorphError, and TypeError for what is no method of this client with pages.
   */
  pages<I, O extends Page>(method: Unary<I, O>, request: I, options: CallOptions = {}): AsyncGenerator<ItemOf<O>, void> {
    const stubs = [
      [ChatService, this.chat],
      [VaultService, this.vault],
      [AdminService, this.admin],
    ] as const;
    checkPaged(
      stubs
        .flatMap(([service, stub]) => service.methods.map((desc) => ({ desc, call: Reflect.get(stub, desc.localName) })))
        .find(({ call }) => call === method)?.desc,
    );
    return each((pageToken) => method({ ...request, ...(pageToken && { pageToken }) }, options));
  }

  #sent(sessionId: string, content: Content, options: SendOptions): Streamed {
    const { signal, requestId, ...more } = options;
    const request = { sessionId, content: blocks(content), requestId: idOf(requestId), ...given(more) };
    return { start: (call) => this.chat.sendMessage(request, call), signal };
  }
}

// None is the same as an empty one.
function idOf(requestId: string | undefined): string {
  return requestId || randomUUID();
}

// Without what is undefined, which a message's init would take for a value.
function given<T extends object>(fields: T): { [K in keyof T]: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as never;
}
