package codec

import "encoding/json"

// JSON is Kombu's json.
func JSON() Codec {
	return Codec{
		Name: "json", ContentType: "application/json", ContentEncoding: "utf-8",
		Encode: json.Marshal,
		Decode: json.Unmarshal,
	}
}
