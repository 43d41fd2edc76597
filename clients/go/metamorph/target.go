package metamorph

import (
	"fmt"
	"regexp"
	"strconv"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

const (
	plaintextScheme = "grpc://"
	tlsScheme       = "grpcs://"
	lastPort        = 65_535
)

// A name, an address of IPv4, or one of IPv6 in brackets.
var targets = regexp.MustCompile(
	`^(grpcs?://)?((?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?\]):([0-9]{1,5}))$`,
)

// transport returns the address of a target, and how to connect to it.
func (chosen settings) transport(target string) (string, credentials.TransportCredentials, error) {
	parts := targets.FindStringSubmatch(target)
	if parts == nil || !isPort(parts[3]) {
		return "", nil, fmt.Errorf("%q is not the address of a server: name one as host:port, as grpc://host:port, or as "+
			"grpcs://host:port for TLS", target)
	}
	scheme, address := parts[1], parts[2]
	if scheme == plaintextScheme && chosen.tls != nil {
		return "", nil, fmt.Errorf("%q is plaintext because of grpc://, and WithTLS is given: leave out one of them", target)
	}
	if scheme != tlsScheme && chosen.tls == nil {
		return address, insecure.NewCredentials(), nil
	}
	files := TLSFiles{}
	if chosen.tls != nil {
		files = *chosen.tls
	}
	config, err := files.config()
	if err != nil {
		return "", nil, err
	}
	return address, credentials.NewTLS(config), nil
}

func isPort(digits string) bool {
	port, err := strconv.Atoi(digits)
	return err == nil && port > 0 && port <= lastPort
}
