// Package metamorph connects to a Metamorph server.
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

// DialOptions returns the options that the server expects of a channel: keepalive, and the calls that are retried. They
// do not include credentials.
func DialOptions() ([]grpc.DialOption, error) {
	var settings struct {
		KeepaliveTimeMs    int64
		KeepaliveTimeoutMs int64
		ServiceConfig      json.RawMessage
	}
	if err := json.Unmarshal(channel, &settings); err != nil {
		return nil, err
	}
	return []grpc.DialOption{
		grpc.WithDefaultServiceConfig(string(settings.ServiceConfig)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time:                time.Duration(settings.KeepaliveTimeMs) * time.Millisecond,
			Timeout:             time.Duration(settings.KeepaliveTimeoutMs) * time.Millisecond,
			PermitWithoutStream: true,
		}),
	}, nil
}
