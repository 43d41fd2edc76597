package main

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"metamorph.internal/go/metamorph"
)

// toolbox has the tools of the suite, and counts their calls.
type toolbox struct {
	lock       sync.Mutex
	calls      []string
	running    int
	mostAtOnce int
}

func (driver *driver) runTools(command asked) (fields, error) {
	box := &toolbox{calls: []string{}}
	tools := slices.DeleteFunc(box.tools(), func(tool metamorph.Tool) bool {
		return !slices.Contains(command.Tools, tool.Name)
	})
	finished, err := driver.by(command).RunTools(
		context.Background(), command.SessionID, command.content(), tools, command.turnOptions()...,
	)
	if err != nil {
		return nil, err
	}
	return fields{"turn_finished": asJSON(finished), "calls": box.calls, "most_at_once": box.mostAtOnce}, nil
}

func (box *toolbox) tools() []metamorph.Tool {
	type numbers struct{ A, B int }
	type words struct{ Text string }
	return []metamorph.Tool{
		metamorph.NewTool("add", "Adds two numbers.",
			`{"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}, "required": ["a", "b"]}`,
			func(_ context.Context, input numbers) (any, error) {
				defer box.count("add")()
				return input.A + input.B, nil
			}),
		metamorph.NewTool("boom", "Fails.", `{"type": "object", "properties": {}}`,
			func(context.Context, struct{}) (any, error) {
				defer box.count("boom")()
				return nil, errors.New("boom")
			}),
		metamorph.NewTool("slow", "Returns a text after a while.",
			`{"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}`,
			func(_ context.Context, input words) (any, error) {
				defer box.count("slow")()
				time.Sleep(200 * time.Millisecond)
				return input.Text, nil
			}),
	}
}

// count counts a call, and returns what ends it.
func (box *toolbox) count(name string) func() {
	box.lock.Lock()
	defer box.lock.Unlock()
	box.calls = append(box.calls, name)
	box.running++
	box.mostAtOnce = max(box.mostAtOnce, box.running)
	return func() {
		box.lock.Lock()
		defer box.lock.Unlock()
		box.running--
	}
}
