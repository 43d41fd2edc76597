"""The names of OpenTelemetry's conventions that this server uses, all of them here.

RPC, database and general names: semantic conventions 1.45. Names of `gen_ai`: semantic-conventions-genai 0.1.0. Names
of our own begin with `metamorph.`.
"""

SCHEMA_URL = "https://opentelemetry.io/schemas/1.45.0"
SCOPE = "metamorphd"

# The resource.
SERVICE_NAME = "service.name"
SERVICE_VERSION = "service.version"
SERVICE_INSTANCE_ID = "service.instance.id"
DEPLOYMENT_ENVIRONMENT = "deployment.environment.name"

ERROR_TYPE = "error.type"

# A call that this server answers. Its span is named by its method, `package.Service/Method`.
RPC_SYSTEM = "rpc.system.name"
RPC_METHOD = "rpc.method"
RPC_STATUS = "rpc.response.status_code"
RPC_DURATION = "rpc.server.call.duration"
GRPC = "grpc"
# The status codes for which a server is to blame. The others are errors of the caller, and none of the server's.
SERVER_ERRORS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})

# An operation of the store, by which its span is named.
DB_SYSTEM = "db.system.name"
DB_OPERATION = "db.operation.name"

# A turn, and a call to a model.
GEN_AI_OPERATION = "gen_ai.operation.name"
GEN_AI_PROVIDER = "gen_ai.provider.name"
GEN_AI_CONVERSATION = "gen_ai.conversation.id"
GEN_AI_MODEL = "gen_ai.request.model"
GEN_AI_MAX_TOKENS = "gen_ai.request.max_tokens"
GEN_AI_STREAM = "gen_ai.request.stream"
GEN_AI_RESPONSE_ID = "gen_ai.response.id"
GEN_AI_RESPONSE_MODEL = "gen_ai.response.model"
GEN_AI_FINISH_REASONS = "gen_ai.response.finish_reasons"
GEN_AI_TIME_TO_FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"
# All input, with what was read from and written to the cache, which have a number each as well.
GEN_AI_INPUT_TOKENS = "gen_ai.usage.input_tokens"
GEN_AI_OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
GEN_AI_CACHE_READ_TOKENS = "gen_ai.usage.cache_read.input_tokens"
GEN_AI_CACHE_WRITE_TOKENS = "gen_ai.usage.cache_write.input_tokens"
INFERENCE_DURATION = "gen_ai.client.inference.duration"
INFERENCE_TIME_TO_FIRST_CHUNK = "gen_ai.client.inference.time_to_first_chunk"
INVOKE_AGENT = "invoke_agent"
CHAT = "chat"
# Not of the conventions, which have no operation for it.
COUNT_TOKENS = "count_tokens"
# The finish reason of a reply that was cut off, by an error or by whoever had asked for it.
CUT_OFF = "error"

# Ours.
VAULT_ID = "metamorph.vault.id"
REASON = "metamorph.error.reason"
TURN_ID = "metamorph.turn.id"
TURN_STATUS = "metamorph.turn.status"
OMITTED_SPANS = "metamorph.omitted_spans"
