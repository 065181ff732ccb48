package codec

import (
	"bytes"
	"compress/zlib"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/gombu/gombu/driver"
)

// text is Kombu's text/plain: a string in UTF-8.
func text() Codec {
	return Codec{
		Name: "text", ContentType: "text/plain", ContentEncoding: "utf-8",
		Encode: encodeData,
		Decode: func(data []byte, v any) error { return decodeData("utf-8", data, v) },
	}
}

// raw is bytes as they are.
func raw() Codec {
	return Codec{
		Name: "raw", ContentType: TypeData, ContentEncoding: "binary",
		Encode: encodeData,
		Decode: func(data []byte, v any) error { return decodeData("binary", data, v) },
	}
}

func encodeData(v any) ([]byte, error) { return appendData(nil, v) }

func appendData(dst []byte, v any) ([]byte, error) {
	switch v := v.(type) {
	case []byte:
		return append(dst, v...), nil
	case string:
		return append(dst, v...), nil
	case fmt.Stringer:
		return append(dst, v.String()...), nil
	}
	return nil, fmt.Errorf("want a string or []byte, have %T", v)
}

func decodeData(encoding string, data []byte, v any) error {
	binary := encoding == "" || strings.EqualFold(encoding, "binary") || strings.EqualFold(encoding, "ascii-8bit")
	switch v := v.(type) {
	case *[]byte:
		*v = bytes.Clone(data)
		return nil
	case *string:
		s, err := toText(encoding, data)
		if binary {
			s, err = string(data), nil
		}
		*v = s
		return err
	case *any:
		if binary {
			*v = bytes.Clone(data)
			return nil
		}
		s, err := toText(encoding, data)
		*v = s
		return err
	}
	return fmt.Errorf("a text or data body %w (%T); use a string, []byte or any", errKind, v)
}

// toText reads the encodings that Kombu's peers write without a serializer.
func toText(encoding string, data []byte) (string, error) {
	switch strings.ToLower(encoding) {
	case "latin-1", "latin1", "iso-8859-1", "iso8859-1":
		runes := make([]rune, len(data))
		for i, b := range data {
			runes[i] = rune(b)
		}
		return string(runes), nil
	case "us-ascii", "ascii", "utf-8", "utf8", "":
		if !utf8.Valid(data) {
			return "", fmt.Errorf("body is not valid %s", encoding)
		}
		return string(data), nil
	}
	return "", fmt.Errorf("unknown content encoding %q", encoding)
}

// zlibCompression is what Kombu calls gzip: a zlib stream (RFC 1950).
func zlibCompression() Compression {
	return Compression{
		Names: []string{"gzip", "zlib"}, ContentType: "application/x-gzip",
		Compress: func(data []byte) ([]byte, error) {
			var b bytes.Buffer
			w := zlib.NewWriter(&b)
			if _, err := w.Write(data); err != nil {
				return nil, err
			}
			err := w.Close()
			return b.Bytes(), err
		},
		Decompress: func(data []byte, limit int) ([]byte, error) {
			r, err := zlib.NewReader(bytes.NewReader(data))
			if err != nil {
				return nil, err
			}
			out, err := io.ReadAll(io.LimitReader(r, int64(limit)+1))
			if len(out) > limit {
				return nil, fmt.Errorf("%w: more than %d bytes when decompressed", driver.ErrTooLarge, limit)
			}
			return out, errors.Join(err, r.Close())
		},
	}
}
