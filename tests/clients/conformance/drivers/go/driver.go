package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"iter"

	"metamorph.internal/go/metamorph"
	chatv1 "metamorph.internal/go/metamorph/chat/v1"
)

// driver has one client at a time, its replies and downloads by their handles.
type driver struct {
	client    *metamorph.Client
	seen      *seen
	replies   map[string]*reply
	downloads map[string]*download
}

// reply is a reply, or the events of a turn without one.
type reply struct {
	*metamorph.Reply
	events iter.Seq2[*chatv1.TurnEvent, error]
	next   func() (*chatv1.TurnEvent, error, bool)
	stop   func()
	abort  context.CancelFunc
}

type download struct {
	next  func() ([]byte, error, bool)
	stop  func()
	size  int
	found hash.Hash
}

func (driver *driver) close() {
	for _, each := range driver.replies {
		each.leave()
	}
	for _, each := range driver.downloads {
		each.stop()
	}
	if driver.client != nil {
		driver.client.Close()
	}
}

func (driver *driver) do(command asked) (fields, error) {
	ctx := context.Background()
	switch command.Do {
	case "connect":
		driver.close()
		driver.seen, driver.replies, driver.downloads = &seen{}, map[string]*reply{}, map[string]*download{}
		client, err := metamorph.Dial(command.Target, driver.seen.options(command)...)
		driver.client = client
		return ok(err)
	case "close":
		return ok(driver.client.Close())
	case "call", "stream":
		return driver.call(command)
	case "create_session":
		session := &chatv1.Session{
			Title: command.Title, Model: command.Model, SystemPrompt: command.SystemPrompt,
			Metadata: command.Metadata, Labels: command.Labels,
		}
		created, err := driver.client.CreateSession(ctx, session)
		return message("session", created, err)
	case "start", "regenerate", "send", "follow":
		return driver.begin(command)
	case "next", "final", "text", "abort":
		return driver.replies[command.Reply].do(command)
	case "cancel":
		turnID := command.TurnID
		if turnID == "" {
			turn, err := driver.replies[command.Reply].Cancel(ctx)
			return message("turn", turn, err)
		}
		turn, err := driver.client.Cancel(ctx, turnID)
		return message("turn", turn, err)
	case "list", "pages":
		return driver.list(command)
	case "upload":
		attachment, err := driver.upload(command)
		return message("attachment", attachment, err)
	case "download":
		next, stop := iter.Pull2(driver.client.Download(ctx, command.AttachmentID))
		driver.downloads[command.Download] = &download{next: next, stop: stop, found: sha256.New()}
		return fields{}, nil
	case "read":
		return driver.downloads[command.Download].read(command)
	case "run_tools":
		return driver.runTools(command)
	case "seen":
		return driver.seen.fields(), nil
	}
	return nil, fmt.Errorf("there is no command %s", command.Do)
}

func (driver *driver) begin(command asked) (fields, error) {
	ctx, abort := context.WithCancel(context.Background())
	client, options := driver.client, command.turnOptions()
	kept := &reply{abort: abort}
	var err error
	switch command.Do {
	case "start":
		kept.Reply, err = client.Start(ctx, command.SessionID, command.content(), options...)
	case "regenerate":
		kept.Reply, err = client.Regenerate(ctx, command.UserMessageID, options...)
	case "send":
		kept.events = client.Send(ctx, command.SessionID, command.content(), options...)
	case "follow":
		kept.events = client.Follow(ctx, command.TurnID, command.AfterSequence)
	}
	if err != nil {
		abort()
		return nil, err
	}
	driver.replies[command.Reply] = kept
	if kept.Reply == nil {
		return fields{}, nil
	}
	kept.events = kept.Reply.Events()
	return fields{"turn_id": kept.TurnID}, nil
}

func (kept *reply) do(command asked) (fields, error) {
	switch command.Do {
	case "final":
		finished, err := kept.Final(context.Background())
		return message("turn_finished", finished, err)
	case "text":
		text := ""
		for part, err := range kept.Text() {
			if err != nil {
				return nil, err
			}
			text += part
		}
		return fields{"text": text}, nil
	case "abort":
		kept.abort()
		return fields{}, nil
	}
	if kept.next == nil {
		kept.next, kept.stop = iter.Pull2(kept.events)
	}
	events := []fields{}
	for command.Count == nil || len(events) < *command.Count {
		event, err, more := kept.next()
		if !more {
			return fields{"events": events, "ended": true}, nil
		}
		if err != nil {
			return fields{"events": events}, err
		}
		events = append(events, eventFields(event))
	}
	return fields{"events": events, "ended": false}, nil
}

func (kept *reply) leave() {
	kept.abort()
	if kept.stop != nil {
		kept.stop()
	}
}

func (kept *download) read(command asked) (fields, error) {
	for count := 0; command.Count == nil || count < *command.Count; count++ {
		chunk, err, more := kept.next()
		if err != nil {
			return nil, err
		}
		if !more {
			return kept.fields(true), nil
		}
		kept.size += len(chunk)
		kept.found.Write(chunk)
	}
	return kept.fields(false), nil
}

func (kept *download) fields(ended bool) fields {
	return fields{"size": kept.size, "sha256": hex.EncodeToString(kept.found.Sum(nil)), "ended": ended}
}
