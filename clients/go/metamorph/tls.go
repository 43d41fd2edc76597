package metamorph

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
)

// TLSFiles are the certificates and the key of TLS, each as the path of a PEM file or as what is in it. All are
// optional.
type TLSFiles struct {
	// CA is the path of the authorities to trust, instead of those that the system trusts.
	CA string
	// Cert and Key are the paths of the certificate that shows who the client is, and of its key (mutual TLS).
	Cert, Key string
	// CAPEM, CertPEM and KeyPEM are read in place of files.
	CAPEM, CertPEM, KeyPEM []byte
}

func (files TLSFiles) config() (*tls.Config, error) {
	ca, err := pem("CA", files.CA, files.CAPEM)
	if err != nil {
		return nil, err
	}
	cert, err := pem("Cert", files.Cert, files.CertPEM)
	if err != nil {
		return nil, err
	}
	key, err := pem("Key", files.Key, files.KeyPEM)
	if err != nil {
		return nil, err
	}
	if (cert == nil) != (key == nil) {
		return nil, errors.New("certificate and key of TLS go together: give both Cert and Key, or none")
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != nil {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(ca) {
			return nil, errors.New("CA of TLS is no PEM of certificates")
		}
	}
	if cert != nil {
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("Cert and Key of TLS cannot be used: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// pem returns what is given, or what is in the file, or nil if there is neither.
func pem(name, path string, given []byte) ([]byte, error) {
	if path == "" && given == nil {
		return nil, nil
	}
	what := "what is given"
	if given == nil {
		what = path
		read, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("%s of TLS cannot be read: %w", name, err)
		}
		given = read
	}
	if !bytes.Contains(given, []byte("-----BEGIN ")) {
		return nil, fmt.Errorf("%s of TLS is no PEM: %s has no line that begins with -----BEGIN", name, what)
	}
	return given, nil
}
