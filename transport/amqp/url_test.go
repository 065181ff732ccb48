package amqp

import (
	"crypto/tls"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/driver/dsn"
)

func parse(t *testing.T, url string) Config {
	t.Helper()
	list, err := dsn.Open(url, driver.DialConfig{})
	if err != nil {
		t.Fatalf("%s: %v", url, err)
	}
	return list[0].(*connector).cfg
}

func TestBehaviour001to004_URLParts(t *testing.T) {
	type parts struct {
		user, password, host string
		port                 int
		vhost                string
	}
	for url, want := range map[string]parts{
		"amqp://user:pass@host:10000/vhost":             {"user", "pass", "host", 10000, "vhost"},
		"amqp://user%61:%61pass@ho%61st:10000/v%2fhost": {"usera", "apass", "hoast", 10000, "v/host"},
		"amqp://":          {"guest", "guest", "localhost", 5672, "/"},
		"amqp://:@/":       {"guest", "guest", "localhost", 5672, "/"},
		"amqp://host/":     {"guest", "guest", "host", 5672, "/"},
		"amqp://:10000":    {"guest", "guest", "localhost", 10000, "/"},
		"amqp://host/%2f":  {"guest", "guest", "host", 5672, "/"},
		"amqp://host//":    {"guest", "guest", "host", 5672, "/"},
		"amqp://host//foo": {"guest", "guest", "host", 5672, "/foo"},
		"pyamqp://a:b@h1":  {"a", "b", "h1", 5672, "/"},
		"u:p@h:5/v":        {"u", "p", "h", 5, "v"},
		"amqp://[::1]:5673/x?heartbeat=3&connect_timeout=.5": {"guest", "guest", "::1", 5673, "x"},
	} {
		cfg := parse(t, url)
		if got := (parts{cfg.User, cfg.Password, cfg.Host, cfg.Port, cfg.VHost}); got != want {
			t.Errorf("%s: %+v, want %+v", url, got, want)
		}
	}
	cfg := parse(t, "localhost")
	if got := cfg.address(); got != "127.0.0.1:5672" {
		t.Errorf("localhost is dialed as %s", got)
	}
}

func TestOptions(t *testing.T) {
	cfg := parse(t, "amqp://h/?connect_timeout=1.5&heartbeat=0&login_method=amqplain&frame_max=8192&channel_max=100&write_timeout=250ms&management=http://m:1")
	if cfg.ConnectTimeout != 1500*time.Millisecond || cfg.Heartbeat >= 0 || cfg.LoginMethod != "AMQPLAIN" ||
		cfg.FrameMax != 8192 || cfg.ChannelMax != 100 || cfg.WriteTimeout != 250*time.Millisecond || cfg.Management != "http://m:1" {
		t.Fatalf("%+v", cfg)
	}
	cfg = parse(t, "amqp://h")
	if cfg.ConnectTimeout != 5*time.Second || cfg.Heartbeat != 10*time.Second || cfg.LoginMethod != "PLAIN" || cfg.UseTLS {
		t.Fatalf("%+v", cfg)
	}
}

func TestBadURLs(t *testing.T) {
	for url, want := range map[string]string{
		"amqp://h/?hartbeat=3":                      `"heartbeat"`,
		"amqp://h/?heartbeat=never":                 "seconds",
		"amqp://h/?heartbeat=99999999":              "heartbeat",
		"amqp://h/?confirm_publish=true":            "NoConfirm",
		"amqp://h/?max_retries=3":                   "Config.Retry",
		"amqp://h/?client_properties=x":             "DialConfig.ClientProperties",
		"amqp://h/?frame_max=100":                   "4096",
		"amqp://h/?channel_max=70000":               "65535",
		"amqp://h/?login_method=GSSAPI":             "EXTERNAL",
		"amqp://h/?management=localhost:15672":      "http://host:port",
		"amqp://h/" + strings.Repeat("v", 256):      "virtual host",
		"amqp://h/?ssl_cert_reqs=none":              "amqps",
		"amqps://h/?ssl=false":                      "contradicts",
		"amqps://h/?ssl_cert_reqs=badvalue":         "CERT_NONE", // behaviour 14
		"amqps://h/?ssl_ca_certs=/no/such/file":     "ssl_ca_certs",
		"amqps://h/?ssl_certfile=/no/such/file":     "ssl_certfile",
		"amqps://h/?ssl_check_hostname=perhaps":     "true or false",
		"amqp://u:s3cret@h/?connect_timeout=s3cret": "connect_timeout",
	} {
		_, err := dsn.Open(url, driver.DialConfig{})
		if !errors.Is(err, driver.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want invalid, with %q", url, err, want)
		}
	}
	if _, err := dsn.Open("amqps://h/?ssl_ca_certs=url_test.go", driver.DialConfig{}); !errors.Is(err, driver.ErrInvalid) {
		t.Errorf("a file without certificates: %v", err)
	}
}

// Behaviour 20, and names and certificates are verified unless the URL says otherwise.
func TestBehaviour020_TLS(t *testing.T) {
	cfg := parse(t, "amqps://broker.example")
	if !cfg.UseTLS || cfg.Port != 5671 {
		t.Fatalf("TLS %v, port %d", cfg.UseTLS, cfg.Port)
	}
	if c := cfg.tlsConfig(); c.InsecureSkipVerify || c.ServerName != "broker.example" {
		t.Fatalf("%+v", c)
	}
	cfg = parse(t, "amqp://h/?ssl=true")
	if !cfg.UseTLS || cfg.Port != 5671 || cfg.tlsConfig().InsecureSkipVerify {
		t.Fatalf("%+v", cfg)
	}
	for query, want := range map[string]struct{ insecure, ownCheck bool }{
		"ssl_cert_reqs=required":                          {false, false},
		"ssl_cert_reqs=CERT_OPTIONAL":                     {false, false},
		"ssl_cert_reqs=none":                              {true, false},
		"ssl_cert_reqs=CERT_NONE":                         {true, false},
		"ssl_check_hostname=false":                        {true, true},
		"ssl_check_hostname=true":                         {false, false},
		"ssl_cert_reqs=required&ssl_check_hostname=false": {true, true},
	} {
		cfg := parse(t, "amqps://h/?"+query)
		if c := cfg.tlsConfig(); c.InsecureSkipVerify != want.insecure || (c.VerifyConnection != nil) != want.ownCheck {
			t.Errorf("%s: insecure %v, own check %v", query, c.InsecureSkipVerify, c.VerifyConnection != nil)
		}
	}
	given := &tls.Config{ServerName: "theirs", MinVersion: tls.VersionTLS13}
	list, err := dsn.Open("amqps://h/?ssl_cert_reqs=none", driver.DialConfig{TLS: given})
	if err != nil {
		t.Fatal(err)
	}
	if c := list[0].(*connector).cfg.tlsConfig(); c.ServerName != "theirs" || c.MinVersion != tls.VersionTLS13 || !c.InsecureSkipVerify || given.InsecureSkipVerify {
		t.Fatal("the settings given must be kept, and not written to")
	}
}

func TestBehaviour052_NameVerifiedIsTheHostDialed(t *testing.T) {
	list, err := dsn.Open("amqps://one.example;amqps://two.example", driver.DialConfig{TLS: &tls.Config{}})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"one.example", "two.example"} {
		if got := list[i].(*connector).cfg.tlsConfig().ServerName; got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	cfg := parse(t, "amqps://10.0.0.1/?server_hostname=broker")
	if got := cfg.tlsConfig().ServerName; got != "broker" {
		t.Error(got)
	}
}

func TestStringMasksSecrets(t *testing.T) {
	for _, c := range []driver.Connector{
		New(Config{User: "u", Password: "s3cret/?@", Host: "h", VHost: "v/w", Management: "http://u:s3cret/?@m"}),
		New(Config{Password: "s3cret/?@", UseTLS: true}),
	} {
		if s := c.String(); strings.Contains(s, "s3cret") || !strings.Contains(s, ":**@") {
			t.Error(s)
		}
	}
	if got := New(Config{User: "u", Host: "h", VHost: "v/w"}).String(); got != "amqp://u:**@h:5672/v%2Fw" {
		t.Error(got)
	}
}

func TestBadConfig(t *testing.T) {
	for name, cfg := range map[string]Config{
		"port":      {Port: 70000},
		"timeout":   {DialConfig: driver.DialConfig{ConnectTimeout: -1}},
		"write":     {WriteTimeout: -1},
		"login":     {DialConfig: driver.DialConfig{LoginMethod: "magic"}},
		"client":    {DialConfig: driver.DialConfig{ClientProperties: driver.Headers{{Key: "x", Value: struct{}{}}}}},
		"frame max": {FrameMax: -1},
	} {
		env, _ := testEnv(driver.Both)
		if _, err := New(cfg).Connect(t.Context(), env); !errors.Is(err, driver.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestKeyAndCertificateInOneFile(t *testing.T) {
	dir := tlsDir(t)
	cert, err := os.ReadFile(filepath.Join(dir, "client.pem"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(filepath.Join(dir, "client.key"))
	if err != nil {
		t.Fatal(err)
	}
	both := filepath.Join(t.TempDir(), "both.pem")
	if err := os.WriteFile(both, append(cert, key...), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := parse(t, "amqps://h/?ssl_certfile="+both)
	if len(cfg.tlsConfig().Certificates) != 1 {
		t.Fatal("no certificate")
	}
}
