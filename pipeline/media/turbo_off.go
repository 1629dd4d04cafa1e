//go:build !turbo

package media

// Turbo says that this program decodes JPEG by libjpeg-turbo in a [Sandbox]. It
// takes the build tag turbo.
const Turbo = false
