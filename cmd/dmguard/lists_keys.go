package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/dmguard/dmguard/hashdb/lists"
)

func listsKeyCommand() *command {
	return &command{name: "key", summary: "make and show keys that sign snapshots", group: []*command{
		{
			name: "new", args: "NAME FILE", summary: "make a key: the private half into FILE, the public one, for lists.keys, on standard output",
			example: "dmguard lists key new alice alice.key", run: runListsKeyNew,
		},
		{
			name: "public", args: "FILE", summary: "print the public half of a key, for lists.keys",
			example: "dmguard lists key public signer.key", run: runListsKeyPublic,
		},
	}}
}

func runListsKeyNew(_ context.Context, cl *commandLine) error {
	if err := cl.parse(2, 2); err != nil {
		return err
	}
	private, public, err := lists.NewKey(cl.args()[0])
	if err != nil {
		return err
	}
	f, err := os.OpenFile(cl.args()[1], os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("writing the key: %w", err)
	}
	_, err = fmt.Fprintln(f, private)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("writing the key: %w", err)
	}
	fmt.Fprintln(cl.out, public)
	return nil
}

func runListsKeyPublic(_ context.Context, cl *commandLine) error {
	if err := cl.parse(1, 1); err != nil {
		return err
	}
	_, public, err := readSigner(cl.args()[0])
	if err != nil {
		return err
	}
	fmt.Fprintln(cl.out, public)
	return nil
}

func runListsSign(_ context.Context, cl *commandLine) error {
	var f listFlags
	f.add(cl)
	var keys string
	cl.env(&keys, "key", "DMGUARD_LISTS_KEY", "", "private keys to sign with, `files` separated by commas")
	if err := cl.parse(1, 1); err != nil {
		return err
	}
	if keys == "" {
		return errors.New("name the key to sign with, --key FILE (see \"dmguard lists key\")")
	}
	cfg, err := f.open()
	if err != nil {
		return err
	}
	signing, err := signers(splitList(keys))
	if err != nil {
		return err
	}
	p, err := lists.AddSignatures(cfg.Lists.Dir, cl.args()[0], cfg.Lists.trust(), signing...)
	if err != nil {
		return err
	}
	fmt.Fprint(cl.out, p.Manifest.Text())
	if p.Waits {
		fmt.Fprintf(cl.out, "\nsigned; %s waits for more signatures: %d are needed\n", p.Manifest, cfg.Lists.Signatures)
		return nil
	}
	fmt.Fprintf(cl.out, "\nsigned; %s is in force\n", p.Manifest)
	return nil
}
