package image

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
)

// Credential is a user with a password, or a bearer token.
type Credential struct{ Username, Password, Token string }

// String keeps a credential out of every log and message.
func (c Credential) String() string { return "(credential)" }

// GoString does so for %#v.
func (c Credential) GoString() string { return c.String() }

func (c Credential) apply(req *http.Request) {
	if c.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.Token)
		return
	}
	req.SetBasicAuth(c.Username, c.Password)
}

// authorize adds the credential of the most exact key. A job's author chooses the URL: what is configured for a host is not
// sent to another port of it, nor without TLS, unless the key says http://.
func (c *client) authorize(req *http.Request) error {
	if req.URL.Scheme == "file" {
		return nil
	}
	all, err := c.credentials()
	if err != nil {
		return err
	}
	target := req.URL.Host + req.URL.Path
	if req.URL.Scheme != "https" {
		target = req.URL.Scheme + "://" + target
	}
	best := ""
	for key := range all {
		if len(key) > len(best) && (target == key || strings.HasPrefix(target, key+"/")) {
			best = key
		}
	}
	if best != "" {
		all[best].apply(req)
	}
	return nil
}

// credentials are by host and path, without scheme but for http, and without a slash at the end.
func (c *client) credentials() (map[string]Credential, error) {
	all := map[string]Credential{}
	if c.options.AuthFile != "" {
		if err := readAuthFile(c.options.AuthFile, all); err != nil {
			return nil, err
		}
	}
	for key, credential := range c.options.Auth {
		all[authKey(key)] = credential
	}
	return all, nil
}

func authKey(key string) string {
	return strings.TrimRight(strings.TrimPrefix(key, "https://"), "/")
}

// authFile is containers-auth.json(5), and ~/.docker/config.json.
type authFile struct {
	Auths map[string]struct {
		Auth          string `json:"auth"` // base64 of USER:PASSWORD
		Username      string `json:"username"`
		Password      string `json:"password"`
		RegistryToken string `json:"registrytoken"`
	} `json:"auths"`
}

// readAuthFile's errors say nothing of what is in the file.
func readAuthFile(path string, into map[string]Credential) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("the registries' credentials cannot be read: %w; see the plugin's configuration", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%s holds credentials and others can read it; chmod 600 it", path)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("the registries' credentials cannot be read: %w; see the plugin's configuration", err)
	}
	var file authFile
	if json.Unmarshal(data, &file) != nil {
		return fmt.Errorf(`%s is not JSON of the form {"auths": {"HOST": {"auth": "…"}}}; write it with podman login`, path)
	}
	for key, a := range file.Auths {
		c := Credential{Username: a.Username, Password: a.Password, Token: a.RegistryToken}
		if a.Auth != "" {
			pair, err := base64.StdEncoding.DecodeString(a.Auth)
			user, password, ok := strings.Cut(string(pair), ":")
			if err != nil || !ok {
				return fmt.Errorf("%s has for %s no base64 of USER:PASSWORD; write it with podman login", path, clip(key))
			}
			c.Username, c.Password = user, password
		}
		into[authKey(key)] = c
	}
	return nil
}
