package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

func canaryCommand() *command {
	return &command{
		name:    "canary",
		summary: "print this deployment's canary string, which opens a case in conversations named dmguard-canary/...",
		example: "dmguard canary --data ./data",
		run:     runCanary,
	}
}

func runCanary(_ context.Context, cl *commandLine) error {
	data := dataFlag(cl)
	file := cl.String("file", "", "file that holds the string; DATA/canary if empty. It is made where there is none")
	if err := cl.parse(0, 0); err != nil {
		return err
	}
	path := *file
	if path == "" {
		path = filepath.Join(*data, "canary")
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	s, err := ensureCanary(path)
	if err != nil {
		return err
	}
	fmt.Fprintln(cl.out, s)
	return nil
}

// ensureCanary returns the string in the file, which it makes where there is
// none.
func ensureCanary(path string) (string, error) {
	s, err := readCanary(path)
	if !errors.Is(err, os.ErrNotExist) {
		return s, err
	}
	s = "dmguard-canary-" + rand.Text()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return readCanary(path) // made by another process meanwhile
	}
	if err != nil {
		return "", fmt.Errorf("making the canary: %w", err)
	}
	_, err = f.WriteString(s + "\n")
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return "", fmt.Errorf("making the canary: %w", err)
	}
	return s, nil
}

func readCanary(path string) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("reading the canary: %w", err)
	}
	s := strings.TrimSpace(string(data))
	if len(s) < 16 {
		return "", fmt.Errorf("the canary in %s is shorter than 16 characters: people could write it by chance", path)
	}
	return s, nil
}
