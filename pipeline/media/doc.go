// Package media fetches the attachments of messages and decodes the pictures
// and videos among them, within limits: bytes, pixels, memory, frames and time.
//
// What an attachment is, its content says; its declared type is never asked.
// JPEG, PNG, GIF, WebP and BMP are decoded, of an animated GIF every frame that
// differs visibly from the others, up to a limit; of a video in MP4, QuickTime or
// WebM the first frame of each second. Whatever is not looked at is said: an error
// marked by [pipeline.Permanent], or [Result.Skipped]. No error quotes an
// attachment or its address.
//
// Files are read below configured folders only, and neither ".." nor a symbolic
// link leads out of them; objects come from configured stores only, so that a
// message cannot name a bucket that the operator did not. Nothing is fetched
// over plain HTTP. The drivers for S3, Google Cloud Storage and Azure are
// linked with the build tag cloud: they quadruple the binary.
//
// [Sandbox] decodes in processes of their own, locked in by Landlock, seccomp and
// limits of memory and time: what a decoder does wrong there costs a process and
// the picture, and neither the service nor the next one. It takes Linux on amd64
// or arm64. [InProcess] does the same work in the calling process, where a
// decoder's panic becomes an error, and a decoder that works long on what it has
// read runs over its time, by seconds at the worst under the default limit of
// pixels.
//
// With the build tag turbo a Sandbox decodes JPEG by libjpeg-turbo, and asks Go's
// decoder about whatever that finds fault with.
//
// Videos are decoded by ffmpeg, always in a process of its own: locked in wherever
// the kernel can do so, else with limits of memory and time alone. It has one
// file, which nobody can change, and its frames are read by their length.
//
// The package does not listen to sound, does not look into documents or archives,
// does not decode TIFF, HEIF, AVIF or the animation of a PNG or WebP, does not turn pictures by
// their EXIF orientation, and does not hash: [Look] is its user's. A process that
// a picture took over can lie about that picture and about later ones until it is
// replaced.
package media
