// Package metamorph holds what every channel to a Metamorph server should be set to.
package metamorph

import (
	_ "embed"
	"encoding/json"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
)

//go:embed channel.json
var channel []byte

// DialOptions sets a channel as the server expects it: keepalive, and which calls are repeated. Credentials are yours.
func DialOptions() ([]grpc.DialOption, error) {
	var agreed struct {
		KeepaliveTimeMs    int64
		KeepaliveTimeoutMs int64
		ServiceConfig      json.RawMessage
	}
	if err := json.Unmarshal(channel, &agreed); err != nil {
		return nil, err
	}
	return []grpc.DialOption{
		grpc.WithDefaultServiceConfig(string(agreed.ServiceConfig)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time:                time.Duration(agreed.KeepaliveTimeMs) * time.Millisecond,
			Timeout:             time.Duration(agreed.KeepaliveTimeoutMs) * time.Millisecond,
			PermitWithoutStream: true,
		}),
	}, nil
}
