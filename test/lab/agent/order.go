package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Order tells an agent which mode to be in. Its generation grows with every
// order, so that a confirmation of an earlier one cannot be mistaken.
type Order struct {
	Generation int64 `json:"generation"`
	Mode       Mode  `json:"mode"`
}

const (
	orderFile     = "mode.json"
	confirmedFile = "applied.json"
)

// Give writes a node's order; the agent there follows within [modePoll].
func Give(dir string, o Order) error { return writeJSON(filepath.Join(dir, orderFile), o) }

// Given reads the order that a node's agent has.
func Given(dir string) (Order, error) { return readOrder(dir) }

// Confirmed reads the order that a node's agent has put into effect.
func Confirmed(dir string) (Order, error) { return readJSON(filepath.Join(dir, confirmedFile)) }

func confirm(dir string, o Order) error { return writeJSON(filepath.Join(dir, confirmedFile), o) }

func readOrder(dir string) (Order, error) { return readJSON(filepath.Join(dir, orderFile)) }

// readJSON reads an order file. No file means the healthy mode.
func readJSON(path string) (Order, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Order{Mode: Mode{Name: ModeCorrect}}, nil
	}
	if err != nil {
		return Order{}, err
	}
	var o Order
	if err := json.Unmarshal(data, &o); err != nil {
		return Order{}, fmt.Errorf("reading %s: %w", path, err)
	}
	return o, nil
}

// writeJSON replaces the file in one step: its reader polls, and must never
// find half of it.
func writeJSON(path string, o Order) error {
	data, err := json.Marshal(o)
	if err != nil {
		return err
	}
	temporary := path + ".new"
	if err := os.WriteFile(temporary, data, 0o644); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}
