package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"iter"
	"time"

	"metamorph.internal/go/metamorph"
	chatv1 "metamorph.internal/go/metamorph/chat/v1"
)

// driver has one client at a time, other identities of it by their names, its replies and downloads by their handles.
type driver struct {
	client    *metamorph.Client
	others    map[string]*metamorph.Client
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
		driver.client, driver.others = client, map[string]*metamorph.Client{}
		return ok(err)
	case "as":
		driver.others[command.Name] = driver.seen.as(driver.client, command.Token)
		return fields{}, nil
	case "close":
		if command.After > 0 {
			time.AfterFunc(seconds(command.After), func() { driver.client.Close() })
			return fields{}, nil
		}
		return ok(driver.by(command).Close())
	case "call", "stream":
		return driver.call(command)
	case "create_session":
		session := &chatv1.Session{
			Title: command.Title, Model: command.Model, SystemPrompt: command.SystemPrompt,
			Metadata: command.Metadata, Labels: command.Labels,
		}
		created, err := driver.by(command).CreateSession(ctx, session)
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
		turn, err := driver.by(command).Cancel(ctx, turnID)
		return message("turn", turn, err)
	case "list", "pages":
		return driver.list(command)
	case "upload":
		attachment, err := driver.upload(command)
		return message("attachment", attachment, err)
	case "download":
		next, stop := iter.Pull2(driver.by(command).Download(ctx, command.AttachmentID))
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

// by returns who does a command.
func (driver *driver) by(command asked) *metamorph.Client {
	if command.By == "" {
		return driver.client
	}
	return driver.others[command.By]
}

func (driver *driver) begin(command asked) (fields, error) {
	ctx, client, options := context.Background(), driver.by(command), command.turnOptions()
	kept := &reply{}
	var err error
	switch command.Do {
	case "start":
		kept.Reply, err = client.Start(ctx, command.SessionID, command.content(), options...)
	case "regenerate":
		kept.Reply, err = client.Regenerate(ctx, command.UserMessageID, options...)
	case "send":
		kept.events = client.Send(ctx, command.SessionID, command.content(), options...)
	case "follow":
		kept.Reply, err = client.Follow(ctx, command.TurnID, command.AfterSequence)
	}
	if err != nil {
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
		kept.leave()
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
			kept.leave()
			return fields{"events": events}, err
		}
		events = append(events, eventFields(event))
	}
	return fields{"events": events, "ended": false}, nil
}

// leave leaves the loop over a reply, which another one can take up again.
func (kept *reply) leave() {
	if kept.stop != nil {
		kept.stop()
	}
	kept.next, kept.stop = nil, nil
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
