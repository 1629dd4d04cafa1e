package exchange

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
)

// maxCredentials is how long a file of credentials may be, in bytes.
const maxCredentials = 16 << 10

// CredentialsVariable names the environment variable with the credentials of a format, such as
// DMGUARD_NCMEC_CREDENTIALS. The same name with _FILE added names one with the path of a file instead, which
// others than its owner may not read.
func CredentialsVariable(f Format) string {
	return "DMGUARD_" + strings.ToUpper(string(f)) + "_CREDENTIALS"
}

// CredentialsForm says what the credentials of a format look like.
func CredentialsForm(f Format) string {
	switch f {
	case NCMEC, TAT:
		return "user:password"
	case StopNCII:
		return "function-key,subscription-key"
	case ThreatExchange:
		return "access token"
	default:
		return "bearer token, or nothing"
	}
}

// credentials looks them up: in the file of the options, in the variable, in the file of the other variable.
func (o Options) credentials(f Format) (string, error) {
	variable := CredentialsVariable(f)
	path := o.CredentialsFile
	if path == "" {
		if inline := strings.TrimSpace(os.Getenv(variable)); inline != "" {
			return inline, nil
		}
		path = os.Getenv(variable + "_FILE")
	}
	if path == "" {
		return "", nil
	}
	file, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("credentials: %w", err)
	}
	defer file.Close()
	stat, err := file.Stat()
	switch {
	case err != nil:
		return "", fmt.Errorf("credentials: %w", err)
	case runtime.GOOS != "windows" && stat.Mode().Perm()&0o077 != 0:
		return "", fmt.Errorf("credentials: others may read or write %s (mode %#o): chmod 600", path, stat.Mode().Perm())
	}
	text, err := io.ReadAll(io.LimitReader(file, maxCredentials+1))
	switch {
	case err != nil:
		return "", fmt.Errorf("credentials: %w", err)
	case len(text) > maxCredentials:
		return "", fmt.Errorf("credentials: %s: over %d bytes", path, maxCredentials)
	case len(strings.TrimSpace(string(text))) == 0:
		return "", fmt.Errorf("credentials: %s is empty", path)
	}
	return strings.TrimSpace(string(text)), nil
}
