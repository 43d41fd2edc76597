package metamorph

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	adminv1 "metamorph/clients/go/metamorph/admin/v1"
	chatv1 "metamorph/clients/go/metamorph/chat/v1"
	vaultv1 "metamorph/clients/go/metamorph/vault/v1"
)

// Caller identifies the caller by a token or, in dev mode only, by the vault alone. FreshToken, if it is set, is called
// for every call and replaces Token. A call whose outgoing context has a token or a vault is sent with those alone.
type Caller struct {
	Token      string
	FreshToken func(ctx context.Context) (string, error)
	Vault      string
}

// Client has a stub for each service, all on one connection.
type Client struct {
	Chat  chatv1.ChatServiceClient
	Vault vaultv1.VaultServiceClient
	Admin adminv1.AdminServiceClient

	connection *grpc.ClientConn
}

// Connect returns a client of the server at target, set up with DialOptions. It does not use TLS unless options contain
// transport credentials.
//
// A turn's stream that ends OK before TurnFinished, or leaves out an event, is resumed, and one without an event is
// repeated if it has a request ID. It fails with codes.Internal if it gets no further. One that ends with an error is
// not resumed.
func Connect(target string, caller Caller, options ...grpc.DialOption) (*Client, error) {
	defaults, err := DialOptions()
	if err != nil {
		return nil, err
	}
	defaults = append(defaults,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithChainUnaryInterceptor(caller.unary),
		grpc.WithChainStreamInterceptor(resuming, caller.stream),
	)
	connection, err := grpc.NewClient(target, append(defaults, options...)...)
	if err != nil {
		return nil, err
	}
	return &Client{
		Chat:       chatv1.NewChatServiceClient(connection),
		Vault:      vaultv1.NewVaultServiceClient(connection),
		Admin:      adminv1.NewAdminServiceClient(connection),
		connection: connection,
	}, nil
}

// Close closes the connection.
func (client *Client) Close() error {
	return client.connection.Close()
}

// Text returns the content of a message that consists of text alone.
func Text(text string) []*chatv1.ContentBlock {
	return []*chatv1.ContentBlock{{Block: &chatv1.ContentBlock_Text{Text: &chatv1.TextBlock{Text: text}}}}
}

func (caller Caller) identify(ctx context.Context) (context.Context, error) {
	given, _ := metadata.FromOutgoingContext(ctx)
	// Not one of each: the server refuses a vault beside a token.
	if len(given.Get("authorization"))+len(given.Get("x-vault-id")) > 0 {
		return ctx, nil
	}
	token := caller.Token
	if caller.FreshToken != nil {
		fresh, err := caller.FreshToken(ctx)
		if err != nil {
			return nil, err
		}
		token = fresh
	}
	if token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	}
	if caller.Vault != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "x-vault-id", caller.Vault)
	}
	return ctx, nil
}

func (caller Caller) unary(
	ctx context.Context, method string, request, reply any,
	connection *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption,
) error {
	identified, err := caller.identify(ctx)
	if err != nil {
		return err
	}
	return invoke(identified, method, request, reply, connection, options...)
}

func (caller Caller) stream(
	ctx context.Context, description *grpc.StreamDesc,
	connection *grpc.ClientConn, method string, open grpc.Streamer, options ...grpc.CallOption,
) (grpc.ClientStream, error) {
	identified, err := caller.identify(ctx)
	if err != nil {
		return nil, err
	}
	return open(identified, description, connection, method, options...)
}
