package redis

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/driver/dsn"
)

func TestBehaviour192_DatabaseNumber(t *testing.T) {
	for path, db := range map[string]int{"": 0, "/": 0, "/1": 1, "//1": 1, "/10": 10} {
		c, err := fromText("redis://h" + path)
		if err != nil || c.DB != db {
			t.Errorf("%q: have %d, %v", path, c.DB, err)
		}
	}
	for _, path := range []string{"/dwqwewqe", "/-1", "/1.5", "/99999999999"} {
		_, err := fromText("redis://h" + path)
		wantKind(t, path, err, driver.ErrInvalid)
	}
}

func TestURLs(t *testing.T) {
	c, err := fromText("redis://")
	if err != nil || c.Addr != "127.0.0.1:6379" {
		t.Fatal(c.Addr, err)
	}
	c, err = fromText("redis://user:p%40ss@h:7000/2?" + strings.Join([]string{
		"visibility_timeout=43200", "global_keyprefix=x:", "sep=%3A", "priority_steps=0,1,2", "fanout_prefix=/f.", "fanout_patterns=false",
		"unacked_key=u", "unacked_index_key=ui", "unacked_mutex_key=um", "unacked_mutex_expire=60", "unacked_restore_interval=5", "unacked_restore_limit=7",
		"client_name=me", "socket_timeout=30", "socket_connect_timeout=2", "ack_emulation=False", "lease=1m", "fanout_buffer=5", "priority_high_first=1"}, "&"))
	if err != nil {
		t.Fatal(err)
	}
	full, err := c.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	c = *full
	if c.Addr != "h:7000" || c.DB != 2 || c.User != "user" || c.Pass != "p@ss" || c.VisibilityTimeout != 12*time.Hour || c.Prefix != "x:" || c.Sep != ":" ||
		len(c.Steps) != 3 || c.FanoutPrefix != "/f." || !c.NoFanoutPatterns || c.UnackedKey != "u" || c.UnackedIndex != "ui" || c.UnackedMutex != "um" ||
		c.MutexExpire != time.Minute || c.RestoreInterval != 5*time.Second || c.RestoreLimit != 7 || c.ClientName != "me" || c.Heartbeat != 30*time.Second ||
		c.ConnectTimeout != 2*time.Second || c.Mirror != MirrorNever || c.Lease != time.Minute || c.FanoutBuffer != 5 || !c.PriorityHighFirst {
		t.Fatalf("%+v", c)
	}
	c, err = fromText("redis+socket:///tmp/r%20x.sock?virtual_host=4&password=pw")
	if err != nil || c.Socket != "/tmp/r x.sock" || c.DB != 4 || c.Pass != "pw" {
		t.Fatal(c, err)
	}
	for _, bad := range []string{"redis+socket://", "redis+foo:///x", "redis://h?visibility_timeout=x", "redis://h?priority_steps=a", "redis://h?priority_steps=3,1",
		"redis://h?priority_steps=10", "redis://h?lease=1", "redis://h?mirror=maybe", "redis://h?ssl_cert_reqs=none", "redis://h?unacked_restore_limit=-1", "redis://h?login_method=PLAIN"} {
		u, err := dsn.Parse(bad)
		if err == nil {
			_, err = u.Open(driver.DialConfig{})
		}
		wantKind(t, bad, err, driver.ErrInvalid)
	}
}

func TestOptionErrorsHelp(t *testing.T) {
	for text, help := range map[string]string{
		"redis://h?visibility_timeot=3":           "visibility_timeout",
		"redis://h?polling_interval=1":            "does not poll",
		"redis://h?max_connections=3":             "one connection",
		"redis://h?unacked_restore_throttle=3":    "unacked_restore_interval",
		"redis://h?master_name=x":                 "scheme sentinel",
		"redis://h?credential_provider=a.B":       "Config.Password",
		"rediss://h?ssl_ca_certs=/does/not/exist": "ssl_ca_certs",
	} {
		_, err := fromText(text)
		wantKind(t, text, err, driver.ErrInvalid)
		if !strings.Contains(err.Error(), help) {
			t.Errorf("%s: %v does not speak of %s", text, err, help)
		}
	}
}

func TestConnectorsNameHidesThePassword(t *testing.T) {
	for text, name := range map[string]string{
		"redis://u:secret@h:7/3?sep=x":                          "redis://u:**@h:7/3",
		"rediss://:secret@h":                                    "rediss://:**@h:6379/0",
		"redis+socket:///a.sock?password=secret&virtual_host=2": "redis+socket:///a.sock?virtual_host=2",
	} {
		u, err := dsn.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		c, err := u.Open(driver.DialConfig{})
		if err != nil {
			t.Fatal(err)
		}
		want(t, "name", c.String(), name)
	}
}

// certificates writes an authority and a server certificate for 127.0.0.1.
func certificates(t testing.TB, dir string, names ...string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "server"}, NotAfter: time.Now().Add(time.Hour), DNSNames: names}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			leaf.IPAddresses = append(leaf.IPAddresses, ip)
		}
	}
	write := func(file, kind string, der []byte) {
		if err := os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	write("ca.pem", "CERTIFICATE", der)
	if der, err = x509.CreateCertificate(rand.Reader, leaf, ca, &key.PublicKey, key); err != nil {
		t.Fatal(err)
	}
	write("server.pem", "CERTIFICATE", der)
	if der, err = x509.MarshalECPrivateKey(key); err != nil {
		t.Fatal(err)
	}
	write("server.key", "EC PRIVATE KEY", der)
}

// tlsFront is a TLS endpoint before a plain server: Debian's redis-server may
// be built without TLS.
func tlsFront(t testing.TB, dir, backend string) string {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "server.pem"), filepath.Join(dir, "server.key"))
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}})
	if err != nil {
		t.Fatal(err)
	}
	relay(t, l, backend)
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}

func TestBehaviour13_TLSVerifies(tt *testing.T) {
	t := newTester(tt)
	good, other := t.TempDir(), t.TempDir()
	certificates(t, good, "127.0.0.1", "localhost")
	certificates(t, other, "elsewhere.example")
	db := "/" + strconv.Itoa(t.config.DB)
	right, wrong := tlsFront(t, good, t.config.Addr), tlsFront(t, other, t.config.Addr)
	for text, ok := range map[string]bool{
		"rediss://127.0.0.1:" + right + db + "":                                                              false,
		"rediss://127.0.0.1:" + right + db + "?ssl_ca_certs=" + good + "/ca.pem":                             true,
		"rediss://localhost:" + right + db + "?ssl_cert_reqs=CERT_REQUIRED&ssl_ca_certs=" + good + "/ca.pem": true,
		"rediss://127.0.0.1:" + right + db + "?ssl_ca_certs=" + other + "/ca.pem":                            false,
		"rediss://127.0.0.1:" + right + db + "?ssl_cert_reqs=none":                                           true,
		"rediss://127.0.0.1:" + wrong + db + "?ssl_ca_certs=" + other + "/ca.pem":                            false,
		"rediss://127.0.0.1:" + wrong + db + "?ssl_check_hostname=false&ssl_ca_certs=" + other + "/ca.pem":   true,
		"rediss://127.0.0.1:" + wrong + db + "?ssl_check_hostname=false&ssl_ca_certs=" + good + "/ca.pem":    false,
	} {
		c, err := fromText(text)
		if err != nil {
			t.Fatal(err)
		}
		s, _, err := openWith(c)
		if (err == nil) != ok {
			t.Errorf("%s: %v", strings.ReplaceAll(text, "/tmp", ""), err)
		}
		if err == nil {
			if err := s.Close(soon(t)); err != nil {
				t.Error(err)
			}
		} else {
			wantKind(t, text, err, driver.ErrUnavailable)
		}
	}
}
