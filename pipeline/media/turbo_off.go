//go:build !turbo

package media

import "image"

// Turbo says that this program decodes JPEG by libjpeg-turbo in a [Sandbox]. It
// takes the build tag turbo.
const Turbo = false

func sandboxedJPEG([]byte, image.Point, bool) image.Image { return nil }
