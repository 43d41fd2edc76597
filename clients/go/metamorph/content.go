package metamorph

import chatv1 "metamorph.internal/go/metamorph/chat/v1"

// Text returns the content of a message that consists of text alone.
func Text(text string) []*chatv1.ContentBlock {
	return []*chatv1.ContentBlock{{Block: &chatv1.ContentBlock_Text{Text: &chatv1.TextBlock{Text: text}}}}
}
