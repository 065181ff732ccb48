package dsn

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gombu/gombu/driver"
)

// What Kombu's Connection makes of a URL, sample by sample. A part that Kombu
// shows as None is empty here. Samples that differ on purpose are listed.
func TestBehaviour11_GoldenURLs(t *testing.T) {
	data, err := os.ReadFile("testdata/urls.json")
	if err != nil {
		t.Fatal(err)
	}
	var golden struct {
		Samples []struct {
			URL, Transport                     string
			Hostname, Userid, Password, Prefix *string
			Port                               *int
			VHost                              string `json:"virtual_host"`
			Alt                                []string
		}
	}
	if err := json.Unmarshal(data, &golden); err != nil {
		t.Fatal(err)
	}
	differs := map[string]string{
		"u:p@h:5/v": "Kombu takes the whole text for a host name; here its parts are read",
		"mongodb://u:p@h1:1,h2:2/db?replicaSet=r": "a transport that parses its own URLs, not built yet",
	}
	text := func(s *string) string {
		if s == nil {
			return ""
		}
		return *s
	}
	for _, s := range golden.Samples {
		if differs[s.URL] != "" {
			continue
		}
		parts := Split(s.URL)
		if len(s.Alt) > 0 && !slices.Equal(parts, s.Alt) {
			t.Errorf("%s: alternates %v, want %v", s.URL, parts, s.Alt)
		}
		u, err := Parse(parts[0])
		if err != nil {
			t.Errorf("%s: %v", s.URL, err)
			continue
		}
		if u.Rest != "" {
			if u.Scheme != s.Transport || u.Rest != text(s.Hostname) {
				t.Errorf("%s: scheme %q, rest %q; want %q, %q", s.URL, u.Scheme, u.Rest, s.Transport, text(s.Hostname))
			}
			continue
		}
		vhost := u.Path
		if vhost == "" {
			vhost = "/"
		}
		port := 0
		if s.Port != nil {
			port = *s.Port
		}
		got := fmt.Sprintf("%s %q %d %q %q %q", u.Scheme, u.Host, u.Port, u.User, u.Password, vhost)
		want := fmt.Sprintf("%s %q %d %q %q %q", s.Transport, text(s.Hostname), port, text(s.Userid), text(s.Password), s.VHost)
		if got != want {
			t.Errorf("%s:\n got %s\nwant %s", s.URL, got, want)
		}
	}
}

func TestBehaviour1_2_3_4_Parts(t *testing.T) {
	for _, c := range []struct{ url, want string }{
		{"amqp://user:pass@host:10000/vhost", `"user" "pass" "host" 10000 "vhost"`},
		{"amqp://user%61:%61pass@ho%61st:10000/v%2fhost", `"usera" "apass" "hoast" 10000 "v/host"`},
		{"amqp://", `"" "" "" 0 ""`},
		{"amqp://:@/", `"" "" "" 0 ""`},
		{"amqp://user@", `"user" "" "" 0 ""`},
		{"amqp://user:pass@", `"user" "pass" "" 0 ""`},
		{"amqp://host", `"" "" "host" 0 ""`},
		{"amqp://:10000", `"" "" "" 10000 ""`},
		{"amqp:///vhost", `"" "" "" 0 "vhost"`},
		{"amqp://host/", `"" "" "host" 0 ""`},
		{"amqp://host/%2f", `"" "" "host" 0 "/"`},
		{"amqp://host//foo", `"" "" "host" 0 "/foo"`},
		{"amqp://[::1]:5673", `"" "" "::1" 5673 ""`},
		{"amqp://u:p@ss:w@h", `"u" "p@ss:w" "h" 0 ""`},
	} {
		u, err := Parse(c.url)
		if err != nil {
			t.Errorf("%s: %v", c.url, err)
			continue
		}
		if got := fmt.Sprintf("%q %q %q %d %q", u.User, u.Password, u.Host, u.Port, u.Path); got != c.want {
			t.Errorf("%s: %s, want %s", c.url, got, c.want)
		}
	}
}

func TestBehaviour5_NoParts(t *testing.T) {
	u, err := Parse("sqs://")
	if err != nil || u.Host+u.User+u.Password != "" || u.Port != 0 {
		t.Fatalf("%+v, %v", u, err)
	}
}

// connector is what the test schemes open.
type connector struct {
	driver.Connector
	u *URL
	d driver.DialConfig
}

func opener(u *URL, d driver.DialConfig) (driver.Connector, error) {
	o := u.Options()
	o.DialOptions(&d)
	var size int
	o.Int("frame_max", &size)
	return connector{u: u, d: d}, o.Finish()
}

func (c connector) String() string { return c.u.String() }

// team is several URLs at once.
type team struct {
	driver.Connector
	text []string
}

func (t team) String() string { return strings.Join(t.text, " ") }

func groupOpener(us []*URL, _ driver.DialConfig) (driver.Connector, error) {
	var t team
	for _, u := range us {
		t.text = append(t.text, u.String())
	}
	return t, nil
}

func init() {
	RegisterGroup("team", groupOpener)
	RegisterGroup("team+up", groupOpener)
	Register("test", opener)
	Register("twin", opener)
	Register("twin", opener)
}

func TestBehaviour6_7_UnknownSchemes(t *testing.T) {
	for _, c := range []struct{ url, says string }{
		{"bogus://h", "unknown transport scheme"},
		{"tset://h", `did you mean "test"`},
		{"rediss+x://h", "transport/redis"},
		{"amqp://h", `import _ "github.com/gombu/gombu/transport/amqp"`},
		{"ampq://h", `"amqp"`},
		{"rabbit://h", "unknown transport scheme"},
		{"twin://h", "two transports"},
		{"", "empty"},
		{"://h", "bad scheme"},
	} {
		_, err := Open(c.url, driver.DialConfig{})
		if !errors.Is(err, driver.ErrInvalid) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%q: %v; want it to say %q", c.url, err, c.says)
		}
	}
}

func TestBehaviour8_9_10_MaskedAndWhole(t *testing.T) {
	for _, c := range []struct{ url, masked string }{
		{"amqp://user:secret@host:10000/vhost", "amqp://user:**@host:10000/vhost"},
		{"amqp://u:s%40%2Fx@h/v%2Fh", "amqp://u:**@h/v%2Fh"},
		{"sqla+postgresql://test:secret@host/db", "sqla+postgresql://test:**@host/db"},
		{"redis+socket:///path/x.sock", "redis+socket:///path/x.sock"},
		{"redis://:secret@h:6380/2", "redis://:**@h:6380/2"},
		{"test://h?sentinel_password=secret&x=1", "test://h?sentinel_password=**&x=1"},
	} {
		u, err := Parse(c.url)
		if err != nil {
			t.Fatal(err)
		}
		if u.String() != c.masked {
			t.Errorf("%s is shown as %s, want %s", c.url, u, c.masked)
		}
		if u.Secret() != c.url {
			t.Errorf("%s in full is %s", c.url, u.Secret())
		}
		if got := Mask(c.url); got != c.masked {
			t.Errorf("Mask(%s) = %s, want %s", c.url, got, c.masked)
		}
	}
	if got := Mask("no url at all"); got != "no url at all" { // behaviour 16
		t.Error(got)
	}
}

// URLs that name one broker together, among others.
func TestGroups(t *testing.T) {
	cs, err := Open("test://a;team://b:1/4;team+up://x;team://c?size=1;test://d", driver.DialConfig{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range cs {
		got = append(got, c.String())
	}
	if want := []string{"test://a", "team://b:1/4 team://c?size=1", "team+up://x", "test://d"}; !slices.Equal(got, want) {
		t.Fatalf("have %q, want %q", got, want)
	}
}

func TestBehaviour12_Alternates(t *testing.T) {
	for _, c := range []struct {
		url  string
		want []string
	}{
		{"test://a;test://b", []string{"test://a", "test://b"}},
		{"test://a;test://b;", []string{"test://a", "test://b"}},
		{"test://a,test://b, test://c", []string{"test://a", "test://b", "test://c"}},
		{"mongodb://h1:1,h2:2/db", []string{"mongodb://h1:1,h2:2/db"}},
		{"a;b", []string{"a", "b"}},
	} {
		if got := Split(c.url); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.url, got, c.want)
		}
	}
	cs, err := Open("test://a;test://b", driver.DialConfig{})
	if err != nil || len(cs) != 2 {
		t.Fatalf("%v, %v", cs, err)
	}
}

func TestBehaviour17_UnknownAndBadOptions(t *testing.T) {
	_, err := Open("test://h?hartbeat=3&frame_max=x", driver.DialConfig{})
	if !errors.Is(err, driver.ErrInvalid) {
		t.Fatal(err)
	}
	for _, part := range []string{`unknown option "hartbeat"`, `"heartbeat"`, "frame_max=x", "whole number"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%v does not say %s", err, part)
		}
	}
}

func TestDialOptions(t *testing.T) {
	cs, err := Open("test://h?connect_timeout=1.5&heartbeat=0&login_method=external", driver.DialConfig{Heartbeat: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	d := cs[0].(connector).d
	if d.ConnectTimeout != 1500*time.Millisecond || d.Heartbeat >= 0 || d.LoginMethod != "EXTERNAL" {
		t.Fatalf("%+v", d)
	}
}

func TestBadParts(t *testing.T) {
	for _, bad := range []string{"test://h:port", "test://h:0", "test://h:65536", "test://[::1", "test://%zz", "test://u:%zz@h", "test://h/%zz", "test://h?%zz", "1x://h"} {
		if _, err := Parse(bad); !errors.Is(err, driver.ErrInvalid) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// No error and no String of any URL shows its password.
func FuzzSecretsStayHidden(f *testing.F) {
	f.Add("amqp", "user", "h0rse!", "host:5672/v")
	f.Add("redis", "", "a:b@c/d?e", "h:x")
	f.Fuzz(func(t *testing.T, scheme, user, pass, rest string) {
		secret := "S3" + pass + "cr3t"
		if strings.ContainsAny(scheme, "@:/?#;,") || strings.ContainsAny(user+rest, "@;,") || strings.Contains(user+rest+scheme, "S3") {
			return
		}
		text := scheme + "://" + url.PathEscape(user) + ":" + url.PathEscape(secret) + "@" + rest
		for _, form := range []string{secret, url.PathEscape(secret)} {
			u, err := Parse(text)
			if err != nil && strings.Contains(err.Error(), form) {
				t.Fatalf("%v", err)
			}
			if err == nil && strings.Contains(u.String(), form) {
				t.Fatalf("%s", u)
			}
			if strings.Contains(Mask(text), form) {
				t.Fatalf("Mask: %s", Mask(text))
			}
			if _, err := Open(text, driver.DialConfig{}); err != nil && strings.Contains(err.Error(), form) {
				t.Fatalf("%v", err)
			}
		}
	})
}
