package metamorph

import (
	"context"
	"iter"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	chatv1 "metamorph.internal/go/metamorph/chat/v1"
	vaultv1 "metamorph.internal/go/metamorph/vault/v1"
)

// PageRequest is the request of a list (AIP-158).
type PageRequest interface {
	proto.Message
	GetPageToken() string
}

// PageResponse is a page of a list (AIP-158).
type PageResponse interface {
	GetNextPageToken() string
}

// Pages yields the items of all pages of a list, page after page as they are asked for. After an error, there is none.
// It takes the method of a stub, its request, and the getter of its response:
//
//	secrets := metamorph.Pages(ctx, client.Vault.ListSecrets, &vaultv1.ListSecretsRequest{},
//		(*vaultv1.ListSecretsResponse).GetSecrets)
//	for secret, err := range secrets {
func Pages[Request PageRequest, Response PageResponse, Item any](
	ctx context.Context,
	method func(context.Context, Request, ...grpc.CallOption) (Response, error),
	request Request,
	items func(Response) []Item,
) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		reflected := request.ProtoReflect()
		asked := reflected.New().Interface().(Request)
		if reflected.IsValid() {
			proto.Merge(asked, request)
		}
		for {
			page, err := method(ctx, asked)
			if err != nil {
				var none Item
				yield(none, err)
				return
			}
			for _, item := range items(page) {
				if !yield(item, nil) {
					return
				}
			}
			token := page.GetNextPageToken()
			if token == "" {
				return
			}
			field := asked.ProtoReflect().Descriptor().Fields().ByName("page_token")
			asked.ProtoReflect().Set(field, protoreflect.ValueOfString(token))
		}
	}
}

// ListSessions yields sessions, those of the newest activity first.
func (client *Client) ListSessions(
	ctx context.Context, request *chatv1.ListSessionsRequest,
) iter.Seq2[*chatv1.Session, error] {
	return Pages(ctx, client.Chat.ListSessions, request, (*chatv1.ListSessionsResponse).GetSessions)
}

// ListMessages yields the messages of a branch of a session, by default the current one, oldest first.
func (client *Client) ListMessages(
	ctx context.Context, request *chatv1.ListMessagesRequest,
) iter.Seq2[*chatv1.Message, error] {
	return Pages(ctx, client.Chat.ListMessages, request, (*chatv1.ListMessagesResponse).GetMessages)
}

// ListTurns yields a session's turns, newest first.
func (client *Client) ListTurns(
	ctx context.Context, request *chatv1.ListTurnsRequest,
) iter.Seq2[*chatv1.Turn, error] {
	return Pages(ctx, client.Chat.ListTurns, request, (*chatv1.ListTurnsResponse).GetTurns)
}

// SearchMessages yields the messages that have all words of a query, newest first.
func (client *Client) SearchMessages(
	ctx context.Context, request *chatv1.SearchMessagesRequest,
) iter.Seq2[*chatv1.MessageMatch, error] {
	return Pages(ctx, client.Chat.SearchMessages, request, (*chatv1.SearchMessagesResponse).GetResults)
}

// ListMemories yields the vault's memories.
func (client *Client) ListMemories(
	ctx context.Context, request *vaultv1.ListMemoriesRequest,
) iter.Seq2[*vaultv1.Memory, error] {
	return Pages(ctx, client.Vault.ListMemories, request, (*vaultv1.ListMemoriesResponse).GetMemories)
}
