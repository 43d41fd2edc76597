// The driver of the Go client.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
)

// asked is a command, see driver.py for who writes it.
type asked struct {
	ID              int               `json:"id"`
	Do              string            `json:"do"`
	By              string            `json:"by"`
	Name            string            `json:"name"`
	After           float64           `json:"after"`
	Target          string            `json:"target"`
	Token           json.RawMessage   `json:"token"`
	TLS             json.RawMessage   `json:"tls"`
	Vault           string            `json:"vault"`
	Timeout         *float64          `json:"timeout"`
	GiveUpAfter     *float64          `json:"give_up_after"`
	Service         string            `json:"service"`
	Method          string            `json:"method"`
	Request         json.RawMessage   `json:"request"`
	Metadata        map[string]string `json:"metadata"`
	Title           string            `json:"title"`
	Model           string            `json:"model"`
	SystemPrompt    string            `json:"system_prompt"`
	Labels          map[string]string `json:"labels"`
	SessionID       string            `json:"session_id"`
	UserMessageID   string            `json:"user_message_id"`
	Content         json.RawMessage   `json:"content"`
	Options         json.RawMessage   `json:"options"`
	RequestID       string            `json:"request_id"`
	ParentMessageID string            `json:"parent_message_id"`
	Reply           string            `json:"reply"`
	TurnID          string            `json:"turn_id"`
	AfterSequence   int32             `json:"after_sequence"`
	Count           *int              `json:"count"`
	What            string            `json:"what"`
	Query           string            `json:"query"`
	PageSize        int32             `json:"page_size"`
	Take            *int              `json:"take"`
	Path            string            `json:"path"`
	How             string            `json:"how"`
	MediaType       string            `json:"media_type"`
	AttachmentID    string            `json:"attachment_id"`
	Download        string            `json:"download"`
	Tools           []string          `json:"tools"`
	MaxRounds       *int              `json:"max_rounds"`
}

// fields are those of an answer.
type fields = map[string]any

func main() {
	lines, answers := bufio.NewReader(os.Stdin), json.NewEncoder(os.Stdout)
	driver := &driver{}
	for {
		line, err := lines.ReadBytes('\n')
		if err == io.EOF {
			driver.close()
			return
		}
		var command asked
		if err == nil {
			err = json.Unmarshal(line, &command)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		answer := fields{"id": command.ID}
		found, err := driver.do(command)
		if found != nil {
			answer["ok"] = found
		}
		if err != nil {
			answer["error"] = described(err)
		}
		if err := answers.Encode(answer); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}
