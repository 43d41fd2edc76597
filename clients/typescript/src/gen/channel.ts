/** How a channel is set up: see channel.json of the other clients. */
export const channel = {
  "keepaliveTimeMs": 20000,
  "keepaliveTimeoutMs": 20000,
  "serviceConfig": {
    "methodConfig": [
      {
        "name": [
          {
            "service": "metamorph.chat.v1.ChatService",
            "method": "GetSession"
          },
          {
            "service": "metamorph.chat.v1.ChatService",
            "method": "ListSessions"
          },
          {
            "service": "metamorph.chat.v1.ChatService",
            "method": "ListMessages"
          },
          {
            "service": "metamorph.chat.v1.ChatService",
            "method": "GetMessage"
          },
          {
            "service": "metamorph.chat.v1.ChatService",
            "method": "DeleteMessage"
          },
          {
            "service": "metamorph.chat.v1.ChatService",
            "method": "SearchMessages"
          },
          {
            "service": "metamorph.chat.v1.ChatService",
            "method": "StreamTurn"
          },
          {
            "service": "metamorph.chat.v1.ChatService",
            "method": "GetTurn"
          },
          {
            "service": "metamorph.chat.v1.ChatService",
            "method": "ListTurns"
          },
          {
            "service": "metamorph.chat.v1.ChatService",
            "method": "CancelTurn"
          },
          {
            "service": "metamorph.chat.v1.ChatService",
            "method": "CountTokens"
          },
          {
            "service": "metamorph.chat.v1.ChatService",
            "method": "UploadAttachment"
          },
          {
            "service": "metamorph.chat.v1.ChatService",
            "method": "DownloadAttachment"
          },
          {
            "service": "metamorph.chat.v1.ChatService",
            "method": "ListModels"
          },
          {
            "service": "metamorph.vault.v1.VaultService",
            "method": "WhoAmI"
          },
          {
            "service": "metamorph.vault.v1.VaultService",
            "method": "GetVault"
          },
          {
            "service": "metamorph.vault.v1.VaultService",
            "method": "WatchVault"
          },
          {
            "service": "metamorph.vault.v1.VaultService",
            "method": "ListAuditEvents"
          },
          {
            "service": "metamorph.vault.v1.VaultService",
            "method": "GetUsage"
          },
          {
            "service": "metamorph.vault.v1.VaultService",
            "method": "GetSecret"
          },
          {
            "service": "metamorph.vault.v1.VaultService",
            "method": "ListSecrets"
          },
          {
            "service": "metamorph.vault.v1.VaultService",
            "method": "ListSecretVersions"
          },
          {
            "service": "metamorph.vault.v1.VaultService",
            "method": "DestroySecretVersion"
          },
          {
            "service": "metamorph.vault.v1.VaultService",
            "method": "GetOperation"
          },
          {
            "service": "metamorph.vault.v1.VaultService",
            "method": "ListOperations"
          },
          {
            "service": "metamorph.vault.v1.VaultService",
            "method": "CancelOperation"
          },
          {
            "service": "metamorph.vault.v1.VaultService",
            "method": "GetMemory"
          },
          {
            "service": "metamorph.vault.v1.VaultService",
            "method": "ListMemories"
          },
          {
            "service": "metamorph.vault.v1.VaultService",
            "method": "SearchMemories"
          },
          {
            "service": "metamorph.vault.v1.VaultService",
            "method": "ImportVault"
          },
          {
            "service": "metamorph.admin.v1.AdminService",
            "method": "GetServerInfo"
          },
          {
            "service": "metamorph.admin.v1.AdminService",
            "method": "RevokeTokens"
          },
          {
            "service": "metamorph.admin.v1.AdminService",
            "method": "ListRevocations"
          },
          {
            "service": "metamorph.admin.v1.AdminService",
            "method": "GetVaultLimits"
          },
          {
            "service": "metamorph.admin.v1.AdminService",
            "method": "UpdateVaultLimits"
          },
          {
            "service": "metamorph.admin.v1.AdminService",
            "method": "ListVaults"
          },
          {
            "service": "metamorph.admin.v1.AdminService",
            "method": "GetVaultStats"
          },
          {
            "service": "metamorph.admin.v1.AdminService",
            "method": "SuspendVault"
          },
          {
            "service": "metamorph.admin.v1.AdminService",
            "method": "ResumeVault"
          },
          {
            "service": "metamorph.admin.v1.AdminService",
            "method": "GetBackup"
          },
          {
            "service": "metamorph.admin.v1.AdminService",
            "method": "ListBackups"
          },
          {
            "service": "metamorph.admin.v1.AdminService",
            "method": "VerifyBackup"
          },
          {
            "service": "metamorph.admin.v1.AdminService",
            "method": "DownloadBackup"
          },
          {
            "service": "metamorph.admin.v1.AdminService",
            "method": "DeleteBackup"
          },
          {
            "service": "metamorph.admin.v1.AdminService",
            "method": "PruneBackups"
          },
          {
            "service": "metamorph.admin.v1.AdminService",
            "method": "ListServerAuditEvents"
          },
          {
            "service": "metamorph.admin.v1.AdminService",
            "method": "VerifyAuditLog"
          },
          {
            "service": "metamorph.admin.v1.AdminService",
            "method": "GetKeyRotation"
          },
          {
            "service": "metamorph.admin.v1.AdminService",
            "method": "GetAnyOperation"
          },
          {
            "service": "metamorph.admin.v1.AdminService",
            "method": "ListAllOperations"
          },
          {
            "service": "metamorph.admin.v1.AdminService",
            "method": "CancelAnyOperation"
          }
        ],
        "retryPolicy": {
          "maxAttempts": 4,
          "initialBackoff": "0.2s",
          "maxBackoff": "2s",
          "backoffMultiplier": 2,
          "retryableStatusCodes": [
            "UNAVAILABLE"
          ]
        }
      }
    ]
  }
} as const;
