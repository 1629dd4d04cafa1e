// Package envelope opens and seals messages under standard encryption, where
// the platform holds the keys.
//
// A sealed record is one JSON object,
//
//	{"v":1,"kid":"…","alg":"A256GCM","id":"…","conversation_id":"…","ct":"…"}
//
// whose ct is the standard base64 of what Tink's AES-256-GCM makes of the
// message's JSON: the five-byte prefix of the key, a nonce of 12 bytes, the
// ciphertext and a tag of 16 bytes. The two ids are authenticated with it, so a
// ciphertext does not open as part of another message. The test vectors in
// testdata/vectors.json hold other implementations to the same bytes.
//
// Keys come from a Tink keyset ([File]) that holds several live keys: opening
// takes the one that the envelope names, sealing the primary one. A [Reloader]
// follows the file, so that a rotation needs no restart. To rotate without a
// message that nobody can open, first give the new keyset to those who open,
// then to those who seal. Nonces are random: rotate well before a key has
// sealed 2^32 messages.
//
// A keyset file is clear in development and wrapped by a KMS in production.
// The package links no KMS client. A platform adds its own with one file beside
// the command's main and one call to it, first thing in main:
//
//	package main
//
//	import (
//		"os"
//
//		"github.com/tink-crypto/tink-go-hcvault/v2/integration/hcvault"
//		"github.com/tink-crypto/tink-go/v2/core/registry"
//	)
//
//	func registerKMS() error {
//		client, err := hcvault.NewClient("hcvault://vault.example:8200/", nil, os.Getenv("VAULT_TOKEN"))
//		if err == nil {
//			registry.RegisterKMSClient(client)
//		}
//		return err
//	}
//
// and names the key by its URI ([File.KMSKeyURI]). Any client of Tink's will do.
//
// The package does not know what a message says, does not decide whether a
// plain record may pass, and hides neither ids nor lengths. It is not for what
// reviewers see: that is sealed to another key.
package envelope
