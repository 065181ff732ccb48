module github.com/gombu/gombu/bench

go 1.26

require (
	github.com/ThreeDotsLabs/watermill v1.5.1
	github.com/ThreeDotsLabs/watermill-amqp/v3 v3.0.2
	github.com/gombu/gombu v0.1.0
	github.com/gombu/gombu/codec/sonic v0.1.0
	github.com/gombu/gombu/transport/amqp v0.1.0
	github.com/gombu/gombu/transport/redis v0.1.0
	github.com/rabbitmq/amqp091-go v1.16.0
	github.com/wagslane/go-rabbitmq v0.15.0
)

require (
	github.com/bytedance/gopkg v0.1.3 // indirect
	github.com/bytedance/sonic v1.15.5 // indirect
	github.com/bytedance/sonic/loader v0.5.3 // indirect
	github.com/cenkalti/backoff/v3 v3.2.2 // indirect
	github.com/cloudwego/base64x v0.1.6 // indirect
	github.com/google/uuid v1.6.0 // indirect
	github.com/hashicorp/errwrap v1.1.0 // indirect
	github.com/hashicorp/go-multierror v1.1.1 // indirect
	github.com/klauspost/cpuid/v2 v2.2.9 // indirect
	github.com/lithammer/shortuuid/v3 v3.0.7 // indirect
	github.com/oklog/ulid v1.3.1 // indirect
	github.com/pkg/errors v0.9.1 // indirect
	github.com/redis/rueidis v1.0.79 // indirect
	github.com/twitchyliquid64/golang-asm v0.15.1 // indirect
	golang.org/x/arch v0.0.0-20210923205945-b76863e36670 // indirect
	golang.org/x/sys v0.47.0 // indirect
)

replace (
	github.com/gombu/gombu => ..
	github.com/gombu/gombu/codec/sonic => ../codec/sonic
	github.com/gombu/gombu/transport/amqp => ../transport/amqp
	github.com/gombu/gombu/transport/redis => ../transport/redis
)
