package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"time"

	"metamorph.internal/go/metamorph"
	chatv1 "metamorph.internal/go/metamorph/chat/v1"
)

// seen is what a client has reported since it was connected.
type seen struct {
	retries []fields
	tokens  int
}

func (seen *seen) fields() fields {
	return fields{"retries": append([]fields{}, seen.retries...), "tokens": seen.tokens}
}

// options returns the options of a client. Commands are done one after the other, so that seen needs no lock.
func (seen *seen) options(command asked) []metamorph.Option {
	options := []metamorph.Option{
		metamorph.WithVault(command.Vault),
		metamorph.WithOnRetry(func(err *metamorph.Error) { seen.retries = append(seen.retries, described(err)) }),
	}
	if command.Timeout != nil {
		options = append(options, metamorph.WithTimeout(seconds(*command.Timeout)))
	}
	if command.GiveUpAfter != nil {
		options = append(options, metamorph.WithGiveUpAfter(seconds(*command.GiveUpAfter)))
	}
	if command.Token != nil {
		options = append(options, seen.token(command.Token))
	}
	if command.TLS != nil {
		options = append(options, tlsOption(command.TLS))
	}
	return options
}

func (seen *seen) token(described json.RawMessage) metamorph.Option {
	if token, ok := text(described); ok {
		return metamorph.WithToken(token)
	}
	return metamorph.WithTokenSource(seen.source(described))
}

func (seen *seen) as(client *metamorph.Client, described json.RawMessage) *metamorph.Client {
	if token, ok := text(described); ok {
		return client.WithToken(token)
	}
	return client.WithTokenSource(seen.source(described))
}

func text(described json.RawMessage) (text string, ok bool) {
	err := json.Unmarshal(described, &text)
	return text, err == nil
}

// errIssuer is what a source of tokens fails with.
var errIssuer = errors.New("the issuer is down")

func (seen *seen) source(described json.RawMessage) func(context.Context) (string, error) {
	var function struct {
		Values    []string `json:"values"`
		Seconds   float64  `json:"seconds"`
		FailsFrom int      `json:"fails_from"`
		FailsTo   int      `json:"fails_to"`
	}
	exitIf(json.Unmarshal(described, &function))
	return func(ctx context.Context) (string, error) {
		seen.tokens++
		select {
		case <-time.After(seconds(function.Seconds)):
		case <-ctx.Done():
			return "", ctx.Err()
		}
		fails := function.FailsFrom > 0 && seen.tokens >= function.FailsFrom
		if fails && (function.FailsTo == 0 || seen.tokens <= function.FailsTo) {
			return "", errIssuer
		}
		return function.Values[min(seen.tokens, len(function.Values))-1], nil
	}
}

func tlsOption(described json.RawMessage) metamorph.Option {
	if string(described) == "true" {
		return metamorph.WithTLS()
	}
	var given struct{ CA, Cert, Key, As string }
	exitIf(json.Unmarshal(described, &given))
	if given.As != "bytes" {
		return metamorph.WithTLS(metamorph.TLSFiles{CA: given.CA, Cert: given.Cert, Key: given.Key})
	}
	return metamorph.WithTLS(metamorph.TLSFiles{
		CAPEM: contents(given.CA), CertPEM: contents(given.Cert), KeyPEM: contents(given.Key),
	})
}

func contents(path string) []byte {
	if path == "" {
		return nil
	}
	found, err := os.ReadFile(path)
	exitIf(err)
	return found
}

func (command asked) turnOptions() []metamorph.TurnOption {
	options := []metamorph.TurnOption{
		metamorph.WithLabels(command.Labels), metamorph.WithRequestID(command.RequestID),
	}
	if command.ParentMessageID != "" {
		options = append(options, metamorph.WithParent(command.ParentMessageID))
	}
	if command.Options != nil {
		generation := &chatv1.GenerationOptions{}
		parse(command.Options, generation)
		options = append(options, metamorph.WithGeneration(generation))
	}
	if command.MaxRounds != nil {
		options = append(options, metamorph.WithMaxRounds(*command.MaxRounds))
	}
	return options
}

func (command asked) content() []*chatv1.ContentBlock {
	if content, ok := text(command.Content); ok {
		return metamorph.Text(content)
	}
	var given []json.RawMessage
	exitIf(json.Unmarshal(command.Content, &given))
	content := []*chatv1.ContentBlock{}
	for _, each := range given {
		block := &chatv1.ContentBlock{}
		parse(each, block)
		content = append(content, block)
	}
	return content
}

func seconds(number float64) time.Duration {
	return time.Duration(number * float64(time.Second))
}
