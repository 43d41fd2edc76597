// What handles messages, so that programs need no @bufbuild/protobuf of their own, which may be a second one beside ours.
export {
  clone,
  create,
  equals,
  fromBinary,
  fromJson,
  fromJsonString,
  isMessage,
  type JsonValue,
  type MessageInitShape,
  type MessageShape,
  toBinary,
  toJson,
  toJsonString,
} from "@bufbuild/protobuf";
export {
  type Duration,
  durationFromMs,
  durationMs,
  type FieldMask,
  type Timestamp,
  timestampDate,
  timestampFromDate,
  timestampMs,
} from "@bufbuild/protobuf/wkt";
