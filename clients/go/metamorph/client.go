package metamorph

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/keepalive"

	adminv1 "metamorph.internal/go/metamorph/admin/v1"
	chatv1 "metamorph.internal/go/metamorph/chat/v1"
	vaultv1 "metamorph.internal/go/metamorph/vault/v1"
)

//go:embed channel.json
var channel []byte

// Client is a client of one server. It may be used by several goroutines at once.
//
// The stubs have every method of the server. Their calls identify the caller unless the outgoing metadata of their
// context has a token or a vault, and fail with an [*Error]. Unary ones have the deadline of [WithTimeout], and are
// repeated if they can be.
type Client struct {
	Chat  chatv1.ChatServiceClient
	Vault vaultv1.VaultServiceClient
	Admin adminv1.AdminServiceClient

	calls       calls
	owns        bool
	giveUpAfter time.Duration
	onRetry     func(*Error)
}

// Dial returns a client of the server at target, to which it connects at the first call.
//
// The target is host:port or grpc://host:port for plaintext, or grpcs://host:port for TLS, which WithTLS asks for too.
// Dial fails for a target, a token or files of TLS with which no call could be made.
func Dial(target string, options ...Option) (*Client, error) {
	chosen := settings{timeout: defaultTimeout, giveUpAfter: defaultGiveUpAfter, onRetry: func(*Error) {}}
	for _, option := range options {
		option(&chosen)
	}
	address, transport, err := chosen.transport(target)
	if err != nil {
		return nil, fmt.Errorf("metamorph: %w", err)
	}
	if err := chosen.caller.check(); err != nil {
		return nil, fmt.Errorf("metamorph: %w", err)
	}
	dialing, err := channelOptions()
	if err != nil {
		return nil, fmt.Errorf("metamorph: %w", err)
	}
	dialing = append(dialing, grpc.WithTransportCredentials(transport))
	opened, err := grpc.NewClient(address, append(dialing, chosen.dialing...)...)
	if err != nil {
		return nil, fmt.Errorf("metamorph: %w", err)
	}
	client := &Client{owns: true, giveUpAfter: chosen.giveUpAfter, onRetry: chosen.onRetry}
	plain := transport.Info().SecurityProtocol == "insecure"
	return client.calling(calls{newConnection(opened, plain), chosen.caller, chosen.timeout}), nil
}

// WithToken returns a client of another caller over the same connection: it sends this token, and neither the token nor
// the vault of the first one. It costs so little that a service can have one for each request. Its Close does nothing,
// and when the first one is closed, so is it. A token that cannot be sent makes every call of it fail.
func (client *Client) WithToken(token string) *Client {
	return client.as(caller{token: token})
}

// WithTokenSource returns a client of another caller over the same connection, as WithToken does. Its source is like
// that of the option [WithTokenSource].
func (client *Client) WithTokenSource(source func(ctx context.Context) (string, error)) *Client {
	return client.as(caller{source: source})
}

// Close ends the connection, and what goes on over it. Turns go on. Later calls fail with the code Canceled.
func (client *Client) Close() error {
	if !client.owns {
		return nil
	}
	return client.calls.close()
}

// Connection returns the connection, for stubs of other services of the server, such as its health. Their calls are
// like those of the client's own stubs.
func (client *Client) Connection() grpc.ClientConnInterface {
	return client.calls
}

func (client *Client) as(caller caller) *Client {
	calls, other := client.calls, *client
	calls.caller, other.owns = caller, false
	return other.calling(calls)
}

// calling sets the calls of a client and of its stubs, and returns it.
func (client *Client) calling(calls calls) *Client {
	client.calls = calls
	client.Chat = chatv1.NewChatServiceClient(calls)
	client.Vault = vaultv1.NewVaultServiceClient(calls)
	client.Admin = adminv1.NewAdminServiceClient(calls)
	return client
}

// channelOptions returns what the server expects of a channel: keepalive, and the calls that are repeated.
func channelOptions() ([]grpc.DialOption, error) {
	var found struct {
		KeepaliveTimeMs    int64
		KeepaliveTimeoutMs int64
		ServiceConfig      json.RawMessage
	}
	if err := json.Unmarshal(channel, &found); err != nil {
		return nil, err
	}
	// Reconnects within a second once the server is back.
	reconnecting := backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second}
	return []grpc.DialOption{
		grpc.WithDefaultServiceConfig(string(found.ServiceConfig)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time:                time.Duration(found.KeepaliveTimeMs) * time.Millisecond,
			Timeout:             time.Duration(found.KeepaliveTimeoutMs) * time.Millisecond,
			PermitWithoutStream: true,
		}),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: reconnecting, MinConnectTimeout: 5 * time.Second}),
	}, nil
}
