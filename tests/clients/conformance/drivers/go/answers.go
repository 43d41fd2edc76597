package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"metamorph.internal/go/metamorph"
	chatv1 "metamorph.internal/go/metamorph/chat/v1"
)

func ok(err error) (fields, error) {
	if err != nil {
		return nil, err
	}
	return fields{}, nil
}

func message(name string, found proto.Message, err error) (fields, error) {
	if err != nil {
		return nil, err
	}
	return fields{name: asJSON(found)}, nil
}

func asJSON(found proto.Message) json.RawMessage {
	encoded, err := protojson.Marshal(found)
	exitIf(err)
	return encoded
}

func parse(given json.RawMessage, into proto.Message) {
	exitIf(protojson.Unmarshal(given, into))
}

// exitIf ends a driver whose command makes no sense.
func exitIf(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func eventFields(event *chatv1.TurnEvent) fields {
	reflected := event.ProtoReflect()
	kind := ""
	if set := reflected.WhichOneof(reflected.Descriptor().Oneofs().ByName("event")); set != nil {
		kind = string(set.Name())
	}
	found := fields{"turn_id": event.TurnId, "sequence": event.Sequence, "kind": kind}
	if delta := event.GetTextDelta(); delta != nil {
		found["text"] = delta.Text
	}
	if finished := event.GetTurnFinished(); finished != nil {
		found["status"] = finished.Status.String()
	}
	return found
}

func described(err error) fields {
	var failed *metamorph.Error
	if !errors.As(err, &failed) {
		// What a token source has returned, or the client refuses itself.
		if errors.Is(err, errIssuer) || !strings.HasPrefix(err.Error(), "metamorph: ") {
			return fields{"type": fmt.Sprintf("other: %T", err), "message": err.Error()}
		}
		return fields{"type": "usage", "message": err.Error()}
	}
	found := fields{
		"type": "MetamorphError", "code": code.Code(failed.Code).String(), "reason": failed.Reason,
		"message": failed.Message, "metadata": map[string]string{}, "retry_delay": nil,
		"call_id": failed.CallID, "resumable": failed.Resumable(), "text": failed.Error(),
	}
	if failed.Metadata != nil {
		found["metadata"] = failed.Metadata
	}
	if failed.RetryDelay != 0 {
		found["retry_delay"] = failed.RetryDelay.Seconds()
	}
	violations := []fields{}
	for _, each := range failed.Violations {
		violations = append(violations, fields{"field": each.Field, "description": each.Description})
	}
	found["violations"] = violations
	return found
}
