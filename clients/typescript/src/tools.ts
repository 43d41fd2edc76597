import type { MessageInitShape } from "@bufbuild/protobuf";
import type { ToolListSchema } from "./gen/metamorph/chat/v1/generation_pb.js";
import type { ContentBlockSchema, ToolUseBlock } from "./gen/metamorph/chat/v1/message_pb.js";
import { StopReason, type TurnFinished, TurnStatus } from "./gen/metamorph/chat/v1/turn_pb.js";

/** A function that the model can call, with its description for it. */
export interface ToolFunction {
  name: string;
  description: string;
  /** The JSON schema of its input, which is an object. */
  inputSchema: object;
  /** Returns text, or what is sent as JSON, or a promise of it. What it throws is sent as an error. */
  run(input: any): unknown;
}

/** Returns the tools as the model is given them. */
export function offered(tools: readonly ToolFunction[]): MessageInitShape<typeof ToolListSchema> {
  return {
    values: tools.map(({ name, description, inputSchema }) => ({
      name,
      description,
      inputSchema: JSON.stringify(inputSchema),
    })),
  };
}

/** Returns the results of the calls that a turn ended with, in their order. They run at the same time. */
export function results(
  tools: readonly ToolFunction[],
  finished: TurnFinished,
): Promise<MessageInitShape<typeof ContentBlockSchema>[]> {
  const wanted = finished.status === TurnStatus.COMPLETED && finished.stopReason === StopReason.TOOL_USE;
  const calls = (wanted && finished.message?.content) || [];
  return Promise.all(calls.flatMap(({ block }) => (block.case === "toolUse" ? [result(tools, block.value)] : [])));
}

async function result(
  tools: readonly ToolFunction[],
  call: ToolUseBlock,
): Promise<MessageInitShape<typeof ContentBlockSchema>> {
  let text: string;
  let isError = false;
  try {
    text = await run(tools, call);
  } catch (error) {
    text = error instanceof Error ? error.message || error.name : String(error);
    isError = true;
  }
  // A block of text must have some.
  const content = text.trim() ? [{ part: { case: "text" as const, value: { text } } }] : [];
  return { block: { case: "toolResult", value: { toolUseId: call.toolUseId, content, isError } } };
}

async function run(tools: readonly ToolFunction[], call: ToolUseBlock): Promise<string> {
  const tool = tools.find(({ name }) => name === call.name);
  if (!tool) throw new Error(`there is no tool ${call.name}`);
  const input: unknown = JSON.parse(call.input || "{}");
  if (typeof input !== "object" || input === null || Array.isArray(input)) {
    throw new TypeError("the input of a tool is a JSON object");
  }
  const returned = await tool.run(input);
  return typeof returned === "string" ? returned : (JSON.stringify(returned) ?? "");
}
