// Command kando stands in the test images for the tool of that name which
// public blueprints call in their containers. It knows `kando output KEY VALUE`
// and nothing else: it prints a phase's output for whoever reads the log.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
)

var keyPattern = regexp.MustCompile(`^[a-zA-Z0-9_]+$`)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "kando:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 3 || args[0] != "output" {
		return fmt.Errorf("%q: the test images know `kando output KEY VALUE` only", args)
	}
	key, value := args[1], args[2]
	if !keyPattern.MatchString(key) {
		return fmt.Errorf("output key %q: want letters, digits and underscores", key)
	}
	// The struct, not a map, for the order of the fields.
	line, err := json.Marshal(struct {
		Key   string `json:"key"`
		Value string `json:"value"`
	}{key, value})
	if err != nil {
		return fmt.Errorf("output %s: %w", key, err)
	}
	// In one write: a reader of the log may see the pieces of several.
	_, err = fmt.Printf("###Phase-output###: %s\n", line)
	return err
}
