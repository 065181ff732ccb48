package redis

import (
	_ "embed"

	"github.com/redis/rueidis"
)

// The scripts move text and never decode JSON: Lua's decoder turns [] into {}
// and rounds big integers. Each has its contract on top.
var (
	//go:embed settle.lua
	settleLua string
	//go:embed ack.lua
	ackLua string
	//go:embed begin.lua
	beginLua string
	//go:embed register.lua
	registerLua string
	//go:embed resume.lua
	resumeLua string
	//go:embed strays.lua
	straysLua string
	//go:embed tick.lua
	tickLua string
	//go:embed fence.lua
	fenceLua string
	//go:embed reap.lua
	reapLua string
	//go:embed forget.lua
	forgetLua string
	//go:embed restore.lua
	restoreLua string
	//go:embed unlock.lua
	unlockLua string
	//go:embed mend.lua
	mendLua string

	settleScript   = rueidis.NewLuaScript(settleLua)
	ackScript      = rueidis.NewLuaScript(ackLua)
	beginScript    = rueidis.NewLuaScript(beginLua)
	registerScript = rueidis.NewLuaScript(registerLua)
	resumeScript   = rueidis.NewLuaScript(resumeLua)
	straysScript   = rueidis.NewLuaScript(straysLua)
	tickScript     = rueidis.NewLuaScript(tickLua)
	fenceScript    = rueidis.NewLuaScript(fenceLua)
	reapScript     = rueidis.NewLuaScript(reapLua)
	forgetScript   = rueidis.NewLuaScript(forgetLua)
	restoreScript  = rueidis.NewLuaScript(restoreLua)
	unlockScript   = rueidis.NewLuaScript(unlockLua)
	mendScript     = rueidis.NewLuaScript(mendLua)
)

// script runs one a script under the session's context; for use inside call.
func (s *store) script(l *rueidis.Lua, keys, args []string) rueidis.RedisResult {
	return l.Exec(s.ctx, s.link.client, keys, args)
}
