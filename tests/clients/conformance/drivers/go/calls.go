package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"reflect"

	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"metamorph.internal/go/metamorph"
	chatv1 "metamorph.internal/go/metamorph/chat/v1"
	vaultv1 "metamorph.internal/go/metamorph/vault/v1"
)

// call calls the method of a stub that a command names.
func (driver *driver) call(command asked) (fields, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if command.Timeout != nil {
		ctx, cancel = context.WithTimeout(ctx, seconds(*command.Timeout))
		defer cancel()
	}
	for key, value := range command.Metadata {
		ctx = metadata.AppendToOutgoingContext(ctx, key, value)
	}
	client := driver.by(command)
	stub := map[string]any{
		"chat": client.Chat, "vault": client.Vault, "admin": client.Admin,
	}[command.Service]
	method := reflect.ValueOf(stub).MethodByName(command.Method)
	request := reflect.New(method.Type().In(1).Elem())
	parse(command.Request, request.Interface().(proto.Message))
	found, err := results(method.Call([]reflect.Value{reflect.ValueOf(ctx), request}))
	if command.Do == "call" || err != nil {
		if err != nil {
			return nil, err
		}
		return message("response", found.Interface().(proto.Message), nil)
	}
	responses := []json.RawMessage{}
	for {
		response, err := results(found.MethodByName("Recv").Call(nil))
		if err == io.EOF {
			return fields{"responses": responses}, nil
		}
		if err != nil {
			return nil, err
		}
		responses = append(responses, asJSON(response.Interface().(proto.Message)))
	}
}

func results(returned []reflect.Value) (reflect.Value, error) {
	err, _ := returned[1].Interface().(error)
	return returned[0], err
}

func (driver *driver) list(command asked) (fields, error) {
	ctx, client, session, size := context.Background(), driver.by(command), command.SessionID, command.PageSize
	switch command.What + command.Method {
	case "sessions":
		return taken(client.ListSessions(ctx, &chatv1.ListSessionsRequest{PageSize: size}), command)
	case "messages":
		request := &chatv1.ListMessagesRequest{SessionId: session, PageSize: size}
		return taken(client.ListMessages(ctx, request), command)
	case "turns":
		return taken(client.ListTurns(ctx, &chatv1.ListTurnsRequest{SessionId: session, PageSize: size}), command)
	case "memories":
		return taken(client.ListMemories(ctx, &vaultv1.ListMemoriesRequest{PageSize: size}), command)
	case "search_messages":
		request := &chatv1.SearchMessagesRequest{Query: command.Query, PageSize: size}
		return taken(client.SearchMessages(ctx, request), command)
	case "ListSessions":
		request := &chatv1.ListSessionsRequest{}
		parse(command.Request, request)
		get := (*chatv1.ListSessionsResponse).GetSessions
		return taken(metamorph.Pages(ctx, client.Chat.ListSessions, request, get), command)
	case "ListMemories":
		request := &vaultv1.ListMemoriesRequest{}
		parse(command.Request, request)
		get := (*vaultv1.ListMemoriesResponse).GetMemories
		return taken(metamorph.Pages(ctx, client.Vault.ListMemories, request, get), command)
	}
	// Pages is generic: a program that gives it another method does not compile.
	return nil, fmt.Errorf("metamorph: %s has no pages", command.Method)
}

func taken[Item proto.Message](items iter.Seq2[Item, error], command asked) (fields, error) {
	found := []json.RawMessage{}
	for item, err := range items {
		if err != nil {
			return nil, err
		}
		found = append(found, asJSON(item))
		if command.Take != nil && len(found) == *command.Take {
			break
		}
	}
	return fields{"items": found}, nil
}

func (driver *driver) upload(command asked) (*chatv1.Attachment, error) {
	ctx := context.Background()
	if command.How == "path" {
		return driver.by(command).UploadFile(ctx, command.Path, command.MediaType)
	}
	var source io.Reader = bytes.NewReader(contents(command.Path))
	if command.How == "stream" {
		source = struct{ io.Reader }{source}
	}
	return driver.by(command).Upload(ctx, source, command.MediaType)
}
